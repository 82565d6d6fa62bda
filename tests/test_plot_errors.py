"""Whatever is wrong: one ``error:`` line that names it and the remedy, status 2, nothing half-written."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from plotting import script
from synthetic import write_ablation, write_results

from experiment.files.folder import Store
from experiment.report import style
from experiment.report.figures import roc_figure
from experiment.report.results import curves
from system.errors import UserError
from system.files import read_json, write_json

SCRIPTS = (
    "roc_curve", "localization", "auroc_table", "score_distribution", "precision_recall", "pro_curve",
    "gaussian_parameters", "patch_gaussian", "model_parameters", "complexity", "training_pictures",
    "calibration",
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

    def run(name: str, *options: object) -> str:
        words = ["--format", "png", "--dpi", "50", "--out", str(tmp_path / "out"), *map(str, options)]
        try:
            status = script(name).main(words)
        except SystemExit as stop:  # argparse
            status = stop.code
        errors = capsys.readouterr().err
        assert status == 2 and re.fullmatch(r"error: .+\n", errors), errors
        assert not list((tmp_path / "out").rglob("*.tmp"))
        return errors

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_results(name, refused, tmp_path):
    line = refused(name, "--result", tmp_path / "none")
    assert str(tmp_path / "none") in line and "python main.py --arch wide_resnet50_2" in line


def test_no_studies(refused, root, tmp_path):
    line = refused("ablation", "--result", root, "--arch", "wide_resnet50_2")
    assert str(root) in line and "python ablation.py --arch wide_resnet50_2" in line
    (root / "ablation_resnet18.json").write_text("{}", encoding="utf-8")
    line = refused("ablation", "--result", root)
    assert "ablation_resnet18.json" in line and "python ablation.py --arch resnet18" in line


def test_results_of_the_sample_data_are_pointed_out(refused, root, tmp_path):
    shutil.move(root, tmp_path / "above" / "demo")
    assert str(tmp_path / "above" / "demo") in refused("roc_curve", "--result", tmp_path / "above")


def test_no_results_of_this_architecture(refused, root):
    assert "main.py --arch wide_resnet50_2" in refused("roc_curve", "--result", root, "--arch", "wide_resnet50_2")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"a": 1}', '{"classes": [], "averages": {}, "run": {}, "complete": true}',
     '{"classes": {"x": {}}, "averages": {}, "run": {}, "complete": true}',
     '{"classes": {}, "averages": {}, "run": {}, "complete": false}'],
)  # fmt: skip
def test_foreign_results(name, content, refused, root):
    (root / "results_resnet18.json").write_text(content, encoding="utf-8")
    assert "results_resnet18.json" in refused(name, "--result", root)


@pytest.fixture(scope="module")
def predecessors(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("predecessors")
    for key in ("spade_wide_resnet50_2", "mahalanobis_ad_efficientnet_b4"):
        write_results(root, key, ("bottle", "tile"))
    return root


ONLY_PADIM = ("gaussian_parameters", "patch_gaussian", "model_parameters", "training_pictures")


@pytest.mark.parametrize("name", ONLY_PADIM)
def test_what_predecessors_do_not_have(name, refused, predecessors):
    words = "stores neither Gaussians nor left-out scores; make PaDiM's results with: python main.py --arch wide_resnet"
    assert words in refused(name, "--result", predecessors)
    assert words in refused(name, "--result", predecessors, "--arch", "mahalanobis_ad_efficientnet_b4")


@pytest.mark.parametrize("name", ["localization", "precision_recall", "pro_curve"])
def test_what_needs_maps(name, refused, predecessors, tmp_path):
    """A model without them is left out, and an error where it is named."""
    line = refused(name, "--result", predecessors, "--arch", "mahalanobis_ad_efficientnet_b4")
    assert "MahalanobisAD (EfficientNet-B4) scores whole pictures" in line and "--arch spade_wide_resnet50_2" in line
    options = ["--result", str(predecessors), "--out", str(tmp_path / "out"), "--format", "png", "--dpi", "50"]
    assert script(name).main(options) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_comparisons_that_are_none(refused, made, predecessors, tmp_path):
    line = refused("localization", "--result", made, "--compare")
    assert "no two models" in line and repr(str(made)) in line and "--method" in line
    root = shutil.copytree(made, tmp_path / "both")
    shutil.copytree(predecessors, root, dirs_exist_ok=True)
    assert "have scored nut" in refused("localization", "--result", root, "--compare", "--class", "nut")
    store = Store(root, "spade_wide_resnet50_2")
    content = store.read_results()
    content["classes"]["tile"]["test_files"] = "1"
    store.write_results(content)
    for script_and_options in (("localization", "--compare"), ("auroc_table",)):
        line = refused(*script_and_options, "--result", root)
        assert "results_resnet18" in line and "results_spade" in line and "different test pictures of tile" in line
        assert line.endswith("leave one of them out with --arch\n")
    store.results.with_name("results_resnet18.json").unlink()
    assert refused("auroc_table", "--result", made, root).endswith("leave one of them out with --result\n")


def test_a_predecessor_has_no_results_yet(refused, made):
    line = refused("roc_curve", "--result", made, "--arch", "resnet18", "spade_wide_resnet50_2")
    assert "no results of spade_wide_resnet50_2" in line and "main.py --method spade --arch wide_resnet50_2" in line
    assert "no studies" in refused("ablation", "--result", made, "--arch", "spade_wide_resnet50_2")


def scores(store):
    return store.arrays("tile")


def left_out(store):
    return store.left_out("tile")


def maps(store):
    return store.maps("tile")


def pictures(store):
    return store.pictures("tile")


def features(store):
    return store.fitted("tile")


def record(store):
    return store.fitted("tile").with_suffix(".json")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("roc_curve", scores), ("precision_recall", scores), ("pro_curve", scores), ("score_distribution", scores),
        ("localization", maps), ("localization", pictures), ("gaussian_parameters", features),
        ("gaussian_parameters", record),
        ("patch_gaussian", features), ("patch_gaussian", scores), ("model_parameters", record),
        ("training_pictures", left_out), ("training_pictures", record),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spoil", ["truncated", "empty", "foreign", "missing"])
def test_spoilt_files(name, file, spoil, refused, root):
    path = file(Store(root, "resnet18"))
    content = path.read_bytes()
    if spoil == "missing":
        path.unlink()
        if file in (scores, left_out):  # 没有打分的类不画；一个也没有时才是错误
            path.with_name(path.name.replace("tile", "bottle")).unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "foreign": b'{"a": []}'}[spoil])
    line = refused(name, "--result", root)
    assert ("results_resnet18" if spoil == "missing" and file in (scores, left_out) else path.stem) in line
    assert "python main.py --arch resnet18 --seed 0" in line


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("localization", ["--index", "12"], "--index 12: tile has 12 test images"),
        ("localization", ["--index", "-1"], "--index -1"),
        ("localization", ["--index", "one"], "--index"),
        ("localization", ["--class", "nut"], "no class 'nut'"),
        ("training_pictures", ["--class", "nut"], "no class 'nut'"),
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
def test_options(name, options, words, refused, made):
    assert words in refused(name, "--result", made, *options)


def test_a_foreign_benchmark(refused, made, tmp_path):
    path = tmp_path / "b.json"
    for content in ({}, {"architectures": []}, {"architectures": {"resnet18": {"padim": {}}}}):
        path.write_text(json.dumps(content), encoding="utf-8")
        assert "benchmarks/run.py --json" in refused("complexity", "--result", made, "--benchmark", path)


def test_a_class_without_left_out_scores(refused, root):
    """Not asked for; or asked for, and the run ended before they stood in the record."""
    store = Store(root, "resnet18")
    store.left_out("tile").unlink()
    made = "python main.py --arch resnet18 --seed 0 --leave_out one\n"
    line = refused("training_pictures", "--result", root, "--class", "tile")
    assert "tile has no left-out scores" in line and line.endswith(made)
    path = store.fitted("bottle").with_suffix(".json")
    write_json(path, read_json(path) | {"left_out_scores": None})
    line = refused("training_pictures", "--result", root)
    assert "bottle has no left-out scores" in line and line.endswith(made)


def test_nothing_to_calibrate_with(refused, root):
    """Left-out scores of one class are enough; without any, the line names the command that makes them."""
    store = Store(root, "resnet18")
    for name in ("tile", "bottle"):
        path = store.fitted(name).with_suffix(".json")
        write_json(path, read_json(path) | {"left_out_scores": None})
        if name == "tile":
            assert script("calibration").main(["--result", str(root), "--out", str(root), "--dpi", "50"]) == 0
    line = refused("calibration", "--result", root)
    assert "has no class with good test pictures and left-out or validation scores" in line
    assert line.endswith("--leave_out one\n")


def test_what_a_run_without_features_never_wrote(refused, root):
    """The command that is named does write it; what is scored all the same can be made as it was."""
    store = Store(root, "resnet18")
    content = store.read_results()
    made = content["run"]["command"]
    store.write_results(content | {"run": content["run"] | {"command": f"{made} --no_features"}})
    shutil.rmtree(store.fitted("tile").parent)
    for name in ("gaussian_parameters", "patch_gaussian", "model_parameters"):
        assert refused(name, "--result", root).endswith(f"make it with: {made}\n")
    store.left_out("bottle").unlink(missing_ok=True)  # they lay beside the features
    assert refused("training_pictures", "--result", root).endswith(f"make some with: {made} --leave_out one\n")
    store.maps("tile").unlink()
    assert refused("localization", "--result", root).endswith(f"make it with: {made} --no_features\n")


def test_a_class_that_was_not_scored(root, tmp_path, capsys):
    """Said of the folder, and then of the class that was asked for."""
    Store(root, "resnet18").arrays("tile").unlink()
    words = ["--result", str(root), "--class", "tile", "--out", str(tmp_path / "out")]
    assert script("localization").main(words) == 2
    note, line = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "the arrays of tile are not there" in note
    assert line.startswith("error: ") and "tile.npz' is not there" in line
    assert "python main.py --arch resnet18 --seed 0" in line


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
    for each in (*SCRIPTS, "ablation"):
        options = ["--result", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "png", "--dpi", "50"]
        assert script(each).main(options) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / f"{name}.png").exists()


def test_a_folder_that_cannot_be_written(refused, made, tmp_path):
    (tmp_path / "file").touch()
    for each in ("roc_curve", "all"):
        line = refused(each, "--result", made, "--out", tmp_path / "file")
        assert repr(str(tmp_path / "file")) in line and "--out" in line


def test_no_chinese_font(refused, made, monkeypatch):
    def missing():
        raise UserError("--lang zh: no Chinese font")

    monkeypatch.setattr(style, "chinese_font", missing)
    assert "--lang zh" in refused("roc_curve", "--result", made, "--lang", "zh")
    monkeypatch.setattr(script("all"), "chinese_font", missing)  # 一个错误，而不是张张略过
    assert "--lang zh" in refused("all", "--result", made, "--lang", "en,zh")


def test_all_formats_or_none(made, tmp_path, monkeypatch, capsys):
    write = Figure.savefig

    def failing(figure, path, format, **kwargs):
        if format == "pdf":
            path.write_bytes(b"%PDF half")
            raise OSError(28, "No space left on device", str(path))
        write(figure, path, format=format, **kwargs)

    monkeypatch.setattr(Figure, "savefig", failing)
    options = ["--result", str(made), "--out", str(tmp_path / "out"), "--dpi", "50"]
    assert script("roc_curve").main(options) == 2
    assert "No space left" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("change", [{"layers": ["layer1"]}, {"layers": []}, {"dimensions": 3}, {"n_train": "x"}])
def test_a_record_with_other_types_inside(change, refused, root):
    path = record(Store(root, "resnet18"))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert "train_tile.json" in refused("model_parameters", "--result", root)


def test_what_was_written_before_an_error_is_told(made, tmp_path, monkeypatch, capsys):
    """The first class is drawn, the second is spoilt."""
    root = shutil.copytree(made, tmp_path / "result")
    Store(root, "resnet18").fitted("bottle").write_bytes(b"")
    options = ["--result", str(root), "--out", str(tmp_path / "out"), "--format", "png", "--dpi", "50", "--all"]
    assert script("gaussian_parameters").main(options) == 2
    said, path = capsys.readouterr(), tmp_path / "out" / "gaussian_parameters_tile_r18.png"
    assert said.out == f"wrote {path}\n" and path.exists() and "train_bottle.pkl" in said.err


def test_parameters_need_no_pickle(root, tmp_path):
    """The record beside it says it all: results may be handed on without their gigabytes."""
    for path in (root / "temp_resnet18").glob("*.pkl"):
        path.unlink()
    options = ["--result", str(root), "--out", str(tmp_path / "out"), "--format", "png", "--dpi", "50"]
    assert script("model_parameters").main(options) == 0
