"""predict.py where something is wrong: records, disks, two at a time, a killed one."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from tiny import drawn, fitted

import predict


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("faults") / "data", n_train=4)


@pytest.fixture(scope="module")
def model(data):
    return fitted(data)


def run(model, *options) -> int:
    return predict.main(["--model", str(model), *map(str, options)])


def command(model, *options) -> list[str]:
    return [sys.executable, str(ROOT / "predict.py"), "--model", str(model), *map(str, options)]


def error(text) -> str:
    (line,) = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert "Traceback" not in text
    return line


def becomes(key: str, value: object):
    return lambda record: record.update({key: value})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda record: record.pop("seed"), "has no seed;"),  # 各项的形式：test_records.py
        (becomes("layers", [{}]), "has layers "),
        *((becomes("preprocessing", v), "no preprocessing of this program") for v in ({}, {"resize": ["a", "b"]})),
        (becomes("arch", "resnet19"), "no network 'resnet19'"),
        (lambda record: record["layers"][0].update(name="layer9"), "no layer 'layer9'"),
        (becomes("dimensions", [9999]), "other channels"),
        (becomes("size", [128, 64]), "damaged"),
    ],
)
def test_records_that_lack_or_garble_something(model, data, tmp_path, capsys, spoil, words):
    """Each is one line that names the record or what is in it; nothing is written."""
    other = shutil.copy(model, tmp_path / model.name)
    record = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    spoil(record)
    (tmp_path / "train_linen.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(other, data / "test/good", "--out", tmp_path / "out", "--num_workers", 0) == 2
    captured = capsys.readouterr()
    assert words in error(captured.err) and captured.out == "" and not (tmp_path / "out").exists()


def test_a_file_that_is_no_record(model, data, tmp_path, capsys):
    other = shutil.copy(model, tmp_path / model.name)
    (tmp_path / "train_linen.json").write_text("{", encoding="utf-8")
    assert run(other, data / "test/good") == 2
    assert "no record of main.py" in error(capsys.readouterr().err)


def test_stored_features_without_pytorch(model, data, capsys, monkeypatch):
    """As with requirements-predict.txt; a mistyped name of an exported model ends there, too."""
    monkeypatch.setitem(sys.modules, "torch", None)
    for path in (model, "bottle.onx"):
        assert run(path, data / "test/good") == 2
        line = error(capsys.readouterr().err)
        assert str(path) in line and "pip install -r requirements.txt" in line and "export.py" in line


def test_pictures_in_the_results_folder(model, data, tmp_path, capsys):
    """``predict FOLDER --out FOLDER``, twice: the second finds the same pictures, and none of its own figures."""
    folder = shutil.copytree(data / "test/good", tmp_path / "in")
    for _ in range(2):
        assert run(model, folder, "--out", folder) == 0
        assert len((folder / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 3
    names = ["000.png", "001.png", "pictures", "predictions.csv", "predictions.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert run(model, folder / "pictures", "--out", folder) == 2
    assert "is where figures go" in error(capsys.readouterr().err)


def test_two_at_a_time_and_a_killed_one(model, data, tmp_path, capsys):
    """The second is refused; what the first leaves when it is killed does not stay, and does not hinder."""
    out = tmp_path / "out"
    first = subprocess.Popen(command(model, *[data / "test"] * 100, "--out", out), cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while not (out / "pictures").exists():
            assert first.poll() is None
            time.sleep(0.01)
        rows = (out / "predictions.csv").read_bytes()
        assert run(model, data / "test", "--out", out) == 2
        assert f"is being written by process {first.pid} on " in (line := error(capsys.readouterr().err))
        assert "--out" in line and first.poll() is None
        assert (out / "predictions.csv").read_bytes().startswith(rows)
    finally:
        first.kill()
        first.wait()
    left, own = out / "pictures/test/good/000.png.123.tmp", out / "pictures/test/my.tmp"
    for path in (left, own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run(model, data / "test", "--out", out) == 0
    assert [p for p in out.rglob("*") if p.suffix == ".tmp" or p.name.startswith(".")] == [own]
    assert len((out / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 7


def written(out) -> dict:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_of_an_earlier_run_only_what_is_its_own_stays(model, data, tmp_path):
    """Its figures, its lines and its record go with the first answer; a picture that is nobody's stays."""
    out = tmp_path / "out"
    assert run(model, data / "test", "--out", out, "--json") == 0
    shutil.copy(data / "train/good/000.png", out / "pictures/mine.png")
    before = written(out)
    assert run(model, data / "test/good/000.png", "--out", out) == 0
    names = ["pictures/000.png", "pictures/mine.png", "predictions.csv", "predictions.json"]
    assert sorted(written(out)) == names and len(before) == 10
    assert run(model, data / "test/good/000.png", "--out", out, "--figures", "none") == 0
    assert sorted(written(out)) == names[1:]


def test_nothing_changes_before_the_first_answer(model, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(model, data / "test", "--out", out, "--json") == 0
    before = written(out)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert run(model, tmp_path / "broken.png", "--out", out) == 2 and written(out) == before
    from experiment.scoring.session import Scoring

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scoring, "take", interrupted)
    assert run(model, data / "test", "--out", out) == 130 and written(out) == before


def test_rows_grow_in_place_and_survive_a_kill(model, data, tmp_path):
    """A finished prediction, another one over it that is killed: complete rows of the new one, no record of the old."""
    out = tmp_path / "out"
    assert run(model, data / "test", "--out", out) == 0
    words = command(model, *[data / "train"] * 60, "--out", out, "--batch_size", 2)
    second = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while "train" not in (out / "predictions.csv").read_text(encoding="utf-8"):
            assert second.poll() is None
            time.sleep(0.01)
    finally:
        second.kill()
        second.wait()
    head, *lines = (out / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert head == "file,score,decision,p_value" and lines
    assert all(re.fullmatch(r".*/train/good/00\d\.png,[\d.]+,(good|defect),.*", line) for line in lines)
    assert not (out / "predictions.json").exists() and not (out / "pictures/test").exists()


@pytest.mark.skipif(os.name == "nt", reason="lengths in bytes are POSIX's")
def test_every_legal_file_name(model, data, tmp_path, capsys):
    """The longest that a file system takes, in Chinese, twice, and with an end that the figure's name must replace."""
    for place, name in (
        ("a", "图" * 83 + ".png"),
        ("b", "图" * 83 + ".png"),
        ("a", "图" * 83 + ".jpg"),
        ("a", "x" * 251 + ".png"),
    ):
        (tmp_path / "in" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "test/good/000.png", tmp_path / "in" / place / name)
    files = sorted((tmp_path / "in").rglob("*.*"))
    assert max(len(os.fsencode(file.name)) for file in files) == 255
    assert run(model, *files, "--out", tmp_path / "out") == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))
    figures = [picture["figure"] for picture in record["pictures"]]
    assert len(set(figures)) == 4 and all((tmp_path / "out" / figure).is_file() for figure in figures)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_full_disk(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.csv").symlink_to("/dev/full")
    assert run(model, data / "test/good", "--out", out) == 2
    line = error(capsys.readouterr().err)
    assert re.fullmatch(
        r"error: '.*/predictions\.csv': No space left on device; make room, or give another --out", line
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(model, data / "test/good"),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
    assert done.returncode == 2
    assert "error: standard output: No space left on device; make room" in error(done.stderr)


@pytest.mark.skipif(os.name == "nt", reason="limits are POSIX's")
def test_a_figure_that_cannot_be_written(model, data, tmp_path):
    """The process may not write a file of more than 20 kB: the table is smaller, a figure is not."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    words = command(model, data / "test/good", "--out", tmp_path)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", preexec_fn=limit)
    assert done.returncode == 2
    assert re.search(r"'.*/pictures/good/00\d\.png': File too large; see --out", error(done.stderr))
    assert not list(tmp_path.rglob("*.tmp"))
