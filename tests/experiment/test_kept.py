"""Whose data and whose weights stored results are of, what they are called, and what can be carried away."""

import json
import pickle
import pickletools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from plotting import script

import main
import predict
from experiment.files.folder import Store
from experiment.files.records import read_fitted_record
from experiment.models import is_as_published
from experiment.options import experiment

TINY = ["--arch", "resnet18", "--weights", "random", "--rd", "10", "--resize", "64", "--crop", "0", "--figures", "none"]


def run(data, out, *options) -> int:
    return main.main([*TINY, "--data_path", str(data), "--save_path", str(out), *map(str, options)])


def plot(name, *options) -> int:
    return script(name).main([str(option) for option in options])


def error(capsys) -> str:
    (line,) = [x for x in capsys.readouterr().err.replace("\r", "\n").splitlines() if x.startswith("error: ")]
    return line


def results(out) -> dict:
    return Store(out, "resnet18").read_results()


def contents(root) -> dict:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def data(sample, tmp_path):
    return shutil.copytree(sample, tmp_path / "data")


@pytest.fixture
def out(data, tmp_path):
    """A finished run on both classes of ``data``."""
    assert run(data, tmp_path / "out") == 0
    return tmp_path / "out"


def test_names_that_agree_are_not_enough(data, out, tmp_path, capsys):
    """Class by class from two folders with the same file names and other contents."""
    other = shutil.copytree(data, tmp_path / "other")
    for path in (other / "flange").rglob("*.png"):
        Image.open(path).rotate(180).save(path)
    before = contents(out)
    capsys.readouterr()
    assert run(other, out, "--classes", "linen") == 2
    line = error(capsys)
    assert "holds class 'flange' of" in line and str(data) in line and str(other) in line
    assert contents(out) == before
    assert run(shutil.copytree(data, tmp_path / "moved"), out, "--classes", "linen") == 0  # 同样的内容：同一份数据


def test_a_class_that_is_gone_loses_its_row(data, out, capsys):
    shutil.rmtree(data / "linen")
    capsys.readouterr()
    assert run(data, out) == 0
    assert f"linen: its folder is gone from '{data}'; its row goes, too\n" in capsys.readouterr().out
    assert set(results(out)["classes"]) == {"flange"} and results(out)["averages"]["all"]["classes"] == 1


def test_a_damaged_file_of_another_class_is_found_before_anything_is_computed(data, out, capsys):
    path = Store(out, "resnet18").arrays("linen")
    path.write_bytes(path.read_bytes()[:-40])
    before = contents(out)
    capsys.readouterr()
    assert run(data, out, "--classes", "flange") == 2
    captured = capsys.readouterr()
    assert "linen.npz' is damaged" in captured.err and "feature extraction" not in captured.err
    assert contents(out) == before
    assert run(data, out) == 0  # 它自己在其中：换上新的


def test_no_two_names_meet(sample, tmp_path):
    """A class called as another one's file would be."""
    for name in ("bolt", "bolt_left_out", "bolt_maps", "bolt_0", "bolt_components"):
        shutil.copytree(sample / "linen", tmp_path / "data" / name)
    for path in (tmp_path / "data/bolt_left_out/test").rglob("*.png"):
        Image.open(path).rotate(180).save(path)
    assert run(tmp_path / "data", tmp_path / "out", "--leave_out", "one") == 0
    store = Store(tmp_path / "out", "resnet18")
    for name, row in results(tmp_path / "out")["classes"].items():
        assert store.read_arrays(name)["threshold"] == row["threshold"] and store.read_left_out(name)["files"].size == 8
    assert results(tmp_path / "out")["classes"]["bolt"] != results(tmp_path / "out")["classes"]["bolt_left_out"]


def test_a_pickle_and_its_json_are_enough(data, out, tmp_path, capsys):
    """The threshold that was made with labels goes with them, and where it is from."""
    store, pictures = Store(out, "resnet18"), data / "linen/test"
    features = store.fitted("linen")
    for file in (features, features.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    capsys.readouterr()
    assert predict.main(["--model", str(features), str(pictures)]) == 0
    wanted = capsys.readouterr()
    assert predict.main(["--model", str(tmp_path / features.name), str(pictures)]) == 0
    found = capsys.readouterr()
    assert found.out == wanted.out and ",defect," in found.out
    assert "(best F1 on the labelled test set)" in found.err
    known, arrays = read_fitted_record(features)["test_set"], store.read_arrays("linen")
    assert known.pop("origin") == "best F1 on the labelled test set"
    assert known == {key: arrays[key] for key in known} and len(known) == 4


NAMES = ("numpy", "ndarray")


def test_the_pickle_names_nothing_but_the_array(out):
    path = Store(out, "resnet18").fitted("linen")
    strings, called = [], []
    for opcode, argument, _ in pickletools.genops(path.read_bytes()):
        if "UNICODE" in opcode.name:
            strings.append(argument)
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            called.append(argument or tuple(strings[-2:]))
    assert called == [NAMES]
    with open(path, "rb") as file:
        mean, cov = pickle.load(file)
    assert mean.shape == (10, 256) and cov.shape == (10, 10, 256) and mean.dtype == cov.dtype == np.float32
    assert cov.flags.f_contiguous and cov.flags.writeable


@pytest.mark.slow
def test_the_three_lines_with_numpy_1(out, tmp_path):
    """In an environment of its own, as README.md has them."""
    made = subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], capture_output=True)
    python = next((p for p in (tmp_path / "venv").glob("*/python*") if p.stem == "python"), None)
    install = [str(python), "-m", "pip", "install", "-q", "numpy==1.26.4"]
    if made.returncode or subprocess.run(install, capture_output=True).returncode:
        pytest.skip("numpy 1.26 cannot be installed here")
    text = (ROOT / "mvtec_result" / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(import pickle\n.*?)```", text, re.S)[1]
    path = str(Store(out, "resnet18").fitted("linen"))
    code = lines.replace("mvtec_result/temp_resnet18/train_bottle.pkl", path)
    code += "import numpy\nprint(numpy.__version__, cov.shape, cov.flags.writeable, float(cov[3, 3, 7]), cov.sum())"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(path, "rb") as file:
        cov = pickle.load(file)[1]
    assert done.stdout.split(" ")[0] == "1.26.4" and str(float(cov[3, 3, 7])) in done.stdout


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ([], True), (["--seed", "7"], True), (["--rd", "100"], True), (["--layers", "layer3,layer1,layer2"], True),
        (["--batch_size", "3", "--leave_out", "one", "--figures", "none"], True), (["--rd", "30"], False),
        (["--precision", "bf16"], False), (["--resize", "255"], False), (["--crop", "0"], False),
        (["--protocol", "rd"], False), (["--layers", "layer1,layer2"], False), (["--reduction", "pca"], False),
        (["--method", "spade"], True), (["--method", "spade", "--top_k", "50"], False),
        (["--arch", "efficientnet_b5"], True), (["--arch", "efficientnet_b5", "--rd", "100"], False),
    ],
)  # fmt: skip
def test_published_columns_stand_beside_published_settings(options, published):
    """Everything but the seed; whether the weights are ImageNet's is another question."""
    assert is_as_published(experiment(["--arch", "resnet18", *options])) is published


def test_rows_of_an_interrupted_refit_are_told_apart(data, out, tmp_path, capsys):
    """The second class's pictures are broken: its old row stays, is named, averaged with no other, and goes at last."""
    broken = data / "linen/train/good/003.png"
    whole, before = broken.read_bytes(), results(out)["classes"]
    broken.write_bytes(whole[: len(whole) // 2])
    assert run(data, out, "--refit", "--seed", 7) == 2
    capsys.readouterr()
    now = results(out)
    assert now["run"]["earlier"] == ["linen"] and not now["complete"] and "verdict" not in now
    assert now["classes"]["linen"] == before["linen"] and now["classes"]["flange"] != before["flange"]
    assert now["averages"]["all"]["classes"] == 1
    assert plot("roc_curve", "--result", out, "--out", tmp_path / "imgs", "--format", "png") == 0
    assert "note: " in (said := capsys.readouterr().err) and "linen as made before a --refit" in said
    broken.write_bytes(whole)
    assert run(data, out, "--seed", 7, "--classes", "flange") == 2
    assert "holds linen as made before a --refit that was interrupted" in error(capsys)
    assert run(data, out, "--refit", "--seed", 7) == 0
    assert "earlier" not in results(out)["run"] and results(out)["complete"]
    assert run(data, out, "--refit", "--classes", "flange") == 0  # 别的种子，少一类：那一行留到最后，然后没有
    assert set(results(out)["classes"]) == {"flange"}


def test_arrays_that_a_killed_run_took_away_are_missed(data, out, tmp_path, capsys):
    Store(out, "resnet18").arrays("linen").unlink()
    capsys.readouterr()
    assert plot("score_distribution", "--result", out, "--out", tmp_path / "imgs", "--format", "png") == 0
    assert "note: " in (said := capsys.readouterr().err) and "the arrays of linen are not there" in said
    assert run(data, out, "--classes", "flange") == 0
    assert "linen: its arrays are not there" in capsys.readouterr().out
    assert run(data, out) == 0 and Store(out, "resnet18").read_arrays("linen")


def test_an_unfinished_figure_of_merit_keeps_everything(data, out, monkeypatch, capsys):
    """The evaluation fails: of the class nothing is replaced, and the results file is untouched."""
    from experiment import evaluation

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    before = contents(out)
    monkeypatch.setattr(evaluation, "evaluate_apart", fails)
    assert run(data, out, "--refit", "--seed", 7) == 2
    assert "No space left" in error(capsys)
    assert contents(out) == before


def test_a_full_disk_in_the_last_file_keeps_everything(data, out, monkeypatch, capsys):
    """The results are written last; the CSV finds no room."""
    from experiment.files import folder

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    before = contents(out)
    monkeypatch.setattr(folder.csv, "writer", fails)
    assert run(data, out, "--refit", "--seed", 7) == 2
    assert "results_resnet18.csv': No space left" in error(capsys)
    assert contents(out) == before
    assert json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))["verdict"]


def test_localization_figures_stay_until_theirs_are_drawn(data, out, monkeypatch):
    """Where the scores are the same, each is replaced by its own; those that are no longer asked for go."""
    assert run(data, out, "--figures", "3") == 0
    folder = Path(out) / "pictures_resnet18"
    names = sorted(p.name for p in folder.iterdir())
    from experiment.report import figures

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(figures, "save_figure", fails)
        assert run(data, out, "--figures", "3") == 2
    assert sorted(p.name for p in folder.iterdir()) == names and len(names) == 6
    assert run(data, out, "--figures", "1") == 0 and len([*folder.iterdir()]) == 2
