"""Whatever is wrong: one ``error:`` line that names it and the remedy, status 2, nothing half-written."""

import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from synthetic import write_ablation, write_results

from padim import style
from padim.figures import roc_figure
from padim.results import curves, table
from padim.store import Store

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plot"))
SCRIPTS = (
    "roc_curve", "localization", "auroc_table", "score_distribution", "precision_recall", "pro_curve",
    "gaussian_parameters", "patch_gaussian", "model_parameters", "complexity",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made")
    write_results(root, "resnet18", ("bottle", "tile"))
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    """A result folder to spoil."""
    return shutil.copytree(made, tmp_path / "result")


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a script that must fail; returns the line."""

    def run(script: str, *options: object) -> str:
        words = ["--format", "png", "--dpi", "50", "--out", str(tmp_path / "out"), *map(str, options)]
        try:
            status = importlib.import_module(script).main(words)
        except SystemExit as stop:  # argparse
            status = stop.code
        errors = capsys.readouterr().err
        assert status == 2 and re.fullmatch(r"error: .+\n", errors), errors
        assert not list((tmp_path / "out").rglob("*.tmp"))
        return errors

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_results(script, refused, tmp_path):
    line = refused(script, "--result", tmp_path / "none")
    assert str(tmp_path / "none") in line and "python main.py --arch wide_resnet50_2" in line


def test_results_of_the_sample_data_are_pointed_out(refused, root, tmp_path):
    shutil.move(root, tmp_path / "above" / "demo")
    assert str(tmp_path / "above" / "demo") in refused("roc_curve", "--result", tmp_path / "above")


def test_no_results_of_this_architecture(refused, root):
    assert "main.py --arch wide_resnet50_2" in refused("roc_curve", "--result", root, "--arch", "wide_resnet50_2")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"a": 1}', '{"classes": [], "averages": {}, "run": {}, "complete": true}',
     '{"classes": {"x": {}}, "averages": {}, "run": {}, "complete": true}',
     '{"classes": {}, "averages": {}, "run": {}, "complete": false}'],
)  # fmt: skip
def test_foreign_results(script, content, refused, root):
    (root / "results_resnet18.json").write_text(content, encoding="utf-8")
    assert "results_resnet18.json" in refused(script, "--result", root)


def scores(store):
    return store.arrays("tile")


def maps(store):
    return store.maps("tile")


def pictures(store):
    return store.images("tile")


def features(store):
    return store.features("tile")


def record(store):
    return store.features("tile").with_suffix(".json")


@pytest.mark.parametrize(
    ("script", "file"),
    [
        ("roc_curve", scores), ("precision_recall", scores), ("pro_curve", scores), ("score_distribution", scores),
        ("localization", maps), ("localization", pictures), ("gaussian_parameters", features),
        ("gaussian_parameters", record),
        ("patch_gaussian", features), ("patch_gaussian", scores), ("model_parameters", record),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spoil", ["truncated", "empty", "foreign", "missing"])
def test_spoilt_files(script, file, spoil, refused, root):
    path = file(Store(root, "resnet18"))
    content = path.read_bytes()
    if spoil == "missing":
        path.unlink()
        if file is scores:  # 没有打分的类不画；一个也没有时才是错误
            Store(root, "resnet18").arrays("bottle").unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "foreign": b'{"a": []}'}[spoil])
    line = refused(script, "--result", root)
    assert ("results_resnet18" if spoil == "missing" and file is scores else path.stem) in line
    assert "python main.py --arch resnet18 --seed 0" in line


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("localization", ["--index", "12"], "--index 12: tile has 12 test images"),
        ("localization", ["--index", "-1"], "--index -1"),
        ("localization", ["--index", "one"], "--index"),
        ("localization", ["--class", "nut"], "no class 'nut'"),
        ("gaussian_parameters", ["--position", "12", "0"], "--position 12 0: the grid has 12 × 12"),
        ("gaussian_parameters", ["--all", "--class", "tile"], "--class"),
        ("complexity", ["--benchmark", "none.json"], "'none.json' (--benchmark)"),
        ("roc_curve", ["--lang", "fr"], "--lang"),
        ("roc_curve", ["--format", "jpg"], "--format"),
        ("roc_curve", ["--format", ""], "--format"),
        ("roc_curve", ["--dpi", "0"], "--dpi"),
        ("roc_curve", ["--dpi", "many"], "--dpi"),
        ("roc_curve", ["--what"], "--what"),
        ("all", ["--lang", "en,fr"], "--lang"),
    ],
)
def test_options(script, options, words, refused, made):
    assert words in refused(script, "--result", made, *options)


def test_a_foreign_benchmark(refused, made, tmp_path):
    path = tmp_path / "b.json"
    for content in ({}, {"architectures": []}, {"architectures": {"resnet18": {"padim": {}}}}):
        path.write_text(json.dumps(content), encoding="utf-8")
        assert "benchmarks/run.py --json" in refused("complexity", "--result", made, "--benchmark", path)


def test_results_from_before_per_region_overlap(refused, root, tmp_path):
    """Everything else is still drawn from them, and the table's program still reads them."""
    store = Store(root, "resnet18")
    for name in ("bottle", "tile"):
        store.write_arrays(name, {k: v for k, v in store.read_arrays(name).items() if k != "pixel_pro"})
    assert "run main.py again: python main.py --arch resnet18" in refused("pro_curve", "--result", root)
    results = store.read_results()
    for row in [*results["classes"].values(), *filter(None, results["averages"].values())]:
        del row["pixel_aupro"]
    store.write_results(results)
    assert "run main.py again" in refused("pro_curve", "--result", root)
    assert "bottle" in table(results, "resnet18")
    for script in ("roc_curve", "precision_recall", "auroc_table"):
        options = ["--result", str(root), "--out", str(tmp_path), "--format", "png", "--dpi", "50"]
        assert importlib.import_module(script).main(options) == 0


def test_patches_of_other_features(refused, root):
    store = Store(root, "resnet18")
    arrays = store.read_arrays("tile")
    store.write_arrays("tile", arrays | {"patches": arrays["patches"][:, :3]})
    assert "does not belong" in refused("patch_gaussian", "--result", root)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_class_whose_name_is_no_text(tmp_path, capsys):
    """Bytes that are no UTF-8, and dollars that would begin a formula: drawn escaped, under their own name."""
    name = os.fsdecode(b"caf\xe9 $^$")
    store = Store(tmp_path, "resnet18")
    content = write_results(tmp_path, "resnet18", (name,))
    write_ablation(tmp_path, "resnet18", (name,))
    roc_figure(curves(content | {"classes": {name: content["classes"][name]}}, store), store.roc_curve)
    for script in (*SCRIPTS, "ablation"):
        options = ["--result", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "png", "--dpi", "50"]
        assert importlib.import_module(script).main(options) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / f"{name}.png").exists()


def test_a_folder_that_cannot_be_written(refused, made, tmp_path):
    (tmp_path / "file").touch()
    for script in ("roc_curve", "all"):
        assert "--out" in refused(script, "--result", made, "--out", tmp_path / "file")


def test_no_chinese_font(refused, made, monkeypatch):
    def missing():
        raise style.FontError("--lang zh: no Chinese font")

    monkeypatch.setattr(style, "chinese_font", missing)
    assert "--lang zh" in refused("roc_curve", "--result", made, "--lang", "zh")


def test_all_formats_or_none(made, tmp_path, monkeypatch, capsys):
    write = Figure.savefig

    def failing(figure, path, format, **kwargs):
        if format == "pdf":
            path.write_bytes(b"%PDF half")
            raise OSError(28, "No space left on device", str(path))
        write(figure, path, format=format, **kwargs)

    monkeypatch.setattr(Figure, "savefig", failing)
    options = ["--result", str(made), "--out", str(tmp_path / "out"), "--dpi", "50"]
    assert importlib.import_module("roc_curve").main(options) == 2
    assert "No space left" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("change", [{"layers": ["layer1"]}, {"layers": []}, {"dimensions": 3}, {"n_train": "x"}])
def test_a_record_with_other_types_inside(change, refused, root):
    path = record(Store(root, "resnet18"))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert "train_tile.json" in refused("model_parameters", "--result", root)
