"""``predict.py -``: pictures as their names come, from another process, each answered before the next is named."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from tiny import drawn, fitted

import export
import predict
from benchmarks.line import line
from datasets.pictures import arriving
from experiment.report.drift import drift

IN_ORDER = ["test/good/000.png", "test/hole/000.png", "test/stain/000.png", "train/good/001.png"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("stream") / "data", n_train=20)


@pytest.fixture(scope="module")
def model(data):
    return fitted(data, "--leave_out", "one")


@pytest.fixture(scope="module")
def exported(model):
    path = model.parent / "linen.onnx"
    assert export.main(["--model", str(model), "--out", str(path)]) == 0
    return path


@contextmanager
def predicting(model, *options, **popen):
    """predict.py - in a process of its own, whose ends are pipes; none is left behind."""
    words = [sys.executable, str(ROOT / "predict.py"), "--model", str(model), *map(str, options), "-"]
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"cwd": ROOT} | popen
    with subprocess.Popen(words, **ends) as process:
        alarm = threading.Timer(120, process.kill)  # 等不到回答的测试，不等到底
        alarm.start()
        try:
            yield process
        finally:
            process.kill()
            alarm.cancel()


def say(process, name, end="\n"):
    process.stdin.write(os.fsencode(name) + end.encode())
    process.stdin.flush()


def in_memory(text: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(text)), "utf-8")


def test_each_is_answered_before_the_next_is_named(exported, data, tmp_path):
    """Also one that is not there or half written: an error line, the next one, and status 2 at the end."""
    odd = tmp_path / "新 图 é, 1.png"
    shutil.copy(data / IN_ORDER[1], odd)
    half = tmp_path / "half.png"
    half.write_bytes(odd.read_bytes()[:700])
    with predicting(exported, "--json") as process:
        answers = []
        for name in (data / IN_ORDER[0], odd):
            say(process, name)
            answers.append(json.loads(process.stdout.readline()))
        for name, words in ((half, "half.png"), (tmp_path / "gone.png", "no such file"), (tmp_path, "regular file")):
            say(process, name)
            while not (line := process.stderr.readline().decode()).startswith("error: "):
                assert line
            assert words in line
        half.write_bytes(odd.read_bytes())  # 写完了，再说一次
        for name, end in ((half, "\r\n"), ("", "\r\n"), ("", "\n"), (odd, "")):
            say(process, name, end)
        process.stdin.close()
        answers += map(json.loads, process.stdout)
        rest = process.stderr.read().decode()
        assert process.wait() == 2
    assert [one["file"] for one in answers] == [str(data / IN_ORDER[0]), str(odd), str(half), str(odd)]
    assert answers[1]["score"] == pytest.approx(answers[2]["score"]) and "4 pictures scored" in rest
    assert "\r" not in rest and "image/s" not in rest


def test_the_answers_are_those_of_the_same_pictures_given(model, data, tmp_path, capsys, monkeypatch):
    """All at once, more than a batch of them; figures, maps, the record and how they score, too."""
    pictures = sorted((data / "test").rglob("*.png")) * 4
    outs = tmp_path / "given", tmp_path / "named"
    options = ["--model", str(model), "--json", "--maps", "--batch_size", "4", "--num_workers", "1"]
    assert predict.main([*options, "--out", str(outs[0]), *map(str, pictures)]) == 0
    monkeypatch.setattr("sys.stdin", in_memory("\n".join(map(str, pictures)).encode()))
    assert predict.main([*options, "--out", str(outs[1]), "-"]) == 0
    found, wanted = (sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) for out in outs)
    assert found == wanted and len(found) > 3 * len(pictures)
    given, named = (json.loads((out / "predictions.json").read_text(encoding="utf-8")) for out in outs)
    for one, other in zip(given["pictures"], named["pictures"], strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-4) and one == other
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("of 24 pictures ")]
    assert len(said) == 2 and said[0] == said[1] == drift([one["p_value"] for one in given["pictures"]], 20).sentence
    assert given["good_scores"] == named["good_scores"] == 20
    assert len({one["figure"] for one in named["pictures"]}) == len(pictures)


def test_rows_grow_and_stay_when_it_is_interrupted(exported, data, tmp_path):
    """As pictures are named; after Ctrl-C what was answered is there, and no record of all."""
    rows = tmp_path / "predictions.csv"
    with predicting(exported, "--out", tmp_path, "--figures", "none") as process:
        for count, name in enumerate(IN_ORDER, 1):
            say(process, data / name)
            while not rows.exists() or rows.read_bytes().count(b"\n") <= count:
                assert process.poll() is None
        if os.name != "nt":
            time.sleep(0.5)  # 它又在等名字
            process.send_signal(signal.SIGINT)
            message = process.stderr.read().decode()
            assert process.wait() == 130
            assert message.endswith("interrupted; the rows written so far are complete\n")
            assert "Traceback" not in message
    assert [line.split(",")[0] for line in rows.read_text(encoding="utf-8").splitlines()[1:]] == [
        str(data / name) for name in IN_ORDER
    ]
    assert not (tmp_path / "predictions.json").exists()


def test_the_figures_of_a_watched_folder_are_no_pictures(model, data, tmp_path, capsys, monkeypatch):
    """Who watches the folder of ``--out`` names them, too: they are passed over, or it would never end."""
    own = shutil.copy(data / IN_ORDER[0], tmp_path / "a.png")
    for _ in range(2):
        named = [tmp_path / "pictures/a.png", own, tmp_path / "pictures/gone.png", tmp_path / "b/../pictures/a.png"]
        monkeypatch.setattr("sys.stdin", in_memory("\n".join(map(str, named)).encode()))
        assert predict.main(["--model", str(model), "--out", str(tmp_path), "-"]) == 0
        assert "1 pictures scored" in capsys.readouterr().err


def test_no_names(model, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", in_memory(b"\n \r\n"))
    assert predict.main(["--model", str(model), "--out", str(tmp_path / "out"), "-"]) == 0
    assert "no picture could be scored" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)
    assert predict.main(["--model", str(model), "-"]) == 2
    assert "error: no names from standard input (there is none)" in capsys.readouterr().err
    assert predict.main(["--model", str(model), "-", "x.png"]) == 2
    assert "error: - takes names from standard input and stands alone" in capsys.readouterr().err
    if os.name != "nt":  # nohup 给的就是这样的标准输入
        with open(os.devnull, "wb") as unreadable, predicting(exported, stdin=unreadable) as process:
            assert b"error: no names from standard input (Bad file descriptor)" in process.stderr.read()
            assert process.wait() == 2


def test_names_as_they_arrive():
    """What is cut in two within a letter is one name; whatever is no file's name is a picture that cannot be read."""
    end, start = os.pipe()
    with open(end, encoding="utf-8") as names, open(start, "wb", buffering=0) as watcher:
        found = arriving(names)
        watcher.write("一/图.png\n二/图".encode())
        assert [p.file for p in next(found)] == [Path("一/图.png")]
        watcher.write(b".png\nnul\0.png\n/\n\xff")
        pictures = next(found)
        assert [p.figure for p in pictures] == [Path("图_2.png"), Path("nul\0.png"), Path(".png")]
        assert pictures[2].file == Path("/")
        watcher.close()
        assert [os.fsencode(p.file) for p in next(found)] == [b"\xff"] and not list(found)


@pytest.mark.slow
def test_the_benchmark_at_the_line(exported, data):
    """A real process beside the same work done here; that both give the same scores it checks itself."""
    found = line(exported, [data / "test"], 3, ["--batch_size", "2"])
    assert found["name to answer"] > found["model"] > 0 and found["ratio"] > 1
    assert min(found.values()) > 0
