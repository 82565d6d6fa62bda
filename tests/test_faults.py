"""Runs that are killed, disks that are full, folders that two want: nothing is lost, and the user is told."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import faults
import numpy as np
import pytest
import torch
from conftest import ROOT

import main
from experiment.files.folder import Store
from experiment.saving import Saving
from padim.model import PaDiM
from system import direct

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return faults.write_data(tmp_path_factory.mktemp("faults") / "data")


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """An undisturbed run, and its folder."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return faults.undisturbed(data, out), out


def one_error(errors: str) -> str:
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in errors, errors
    return lines[0]


@pytest.fixture
def refused(data, capsys):
    """Runs main.py in this process; returns its one error line."""

    def run(out, *options) -> str:
        assert main.main([*faults.command(data, out)[2:], *options]) == 2
        return one_error(capsys.readouterr().err)

    return run


@pytest.mark.parametrize("runs", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_runs_lose_nothing(data, reference, tmp_path, runs):
    tally = faults.Tally()
    faults.faults(data, tmp_path, runs, seed=runs, reference=reference[0], tally=tally)
    print(tally.table())
    assert sum(tally.faults.values()) == runs
    assert tally.files_lost == tally.different == tally.leftovers == 0 and tally.compared >= 1


QUICK = {"another seed": 1, "the same": 1}


@pytest.mark.parametrize(
    ("kind", "runs"), [*QUICK.items(), *(pytest.param(kind, 20, marks=pytest.mark.slow) for kind in faults.AGAIN)]
)
def test_what_was_finished_stays_until_its_replacement_is_there(data, reference, tmp_path, kind, runs):
    finished = faults.Finished.of(data, reference[1], faults.AGAIN[kind], tmp_path / "after")
    tally = faults.Tally()
    faults.again(finished, tmp_path, runs, seed=runs, tally=tally)
    print(tally.table())
    assert tally.files_lost == tally.different == tally.leftovers == 0


@pytest.mark.parametrize("runs", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_prediction_over_an_earlier_one(data, reference, tmp_path, runs):
    tally = faults.Tally()
    faults.predict_again(data, reference[1], tmp_path, runs, seed=runs, tally=tally)
    print(tally.table())
    assert tally.files_lost == 0


@pytest.fixture
def disk(tmp_path):
    """A file system of 9 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=9m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(refused, disk):
    """The first class fits, the second one's pickle does not; then its maps do not."""
    out = disk / "out"
    message = refused(out)
    assert "train_linen.pkl' needs 5.3 MB" in message and "are free" in message and "--no_features" in message
    results = Store(out, faults.ARCH).read_results()
    assert results["run"]["finished"] == ["flange"] and not results["complete"]
    kept = faults.finished_files(out)
    assert len(kept) == 6 and faults.check_readable(out) and not list(out.rglob("*.tmp"))
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 900_000))
    message = refused(out, "--no_features", "--classes", "linen")
    assert "linen_images.npy': no room for 451.6 kB" in message and "--save_path" in message
    message = refused(out, "--refit", "--classes", "flange")  # 那里有 pickle：--no_features 会被拒绝
    assert "train_flange.pkl' needs 5.3 MB" in message and "--no_features" not in message
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == digest for path, digest in kept.items())
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("fate", ["never writable", "deleted meanwhile"])
def test_a_folder_that_cannot_be_written(refused, disk, monkeypatch, fate):
    out, real = disk / "out", main.score

    def score(*arguments):
        shutil.rmtree(out)
        return real(*arguments)

    monkeypatch.setattr(main, "score", score)
    if fate == "never writable":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "Read-only file system" in refused(out) and not out.exists()
    else:
        message = refused(out, "--no_features")
        assert f"'{out}' was deleted" in message and "--save_path" in message


def test_saving_in_the_background_is_given_up(data, tmp_path, monkeypatch):
    """Scoring does not wait until the pickle is on the disk; giving up leaves nothing."""
    real = direct.Writer.sync

    def sync(writer):
        writer.go_on.__self__.stop.wait(60)
        real(writer)

    monkeypatch.setattr(direct.Writer, "sync", sync)
    model = PaDiM("resnet18", "random", dimensions=5).fit([torch.randn(2, 3, 224, 224)])
    saving = Saving(model, tmp_path / "x.pkl")
    (scores,) = model.score([torch.randn(1, 3, 224, 224)], saving.wait_read)
    assert np.isfinite(scores.maps).all() and [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    saving.abort()
    assert not list(tmp_path.iterdir())


def test_two_runs_on_one_folder(refused, tmp_path):
    out = tmp_path / "out"
    with Store(out, faults.ARCH).locked():
        message = refused(out)
        assert f"'{out}' is being written by process {os.getpid()} on " in message and "--save_path" in message
        assert {path.name for path in out.iterdir()} == {f".lock_{faults.ARCH}", f".lock_{faults.ARCH}_holder"}
    assert not out.exists()  # 空着的文件夹也不留下


def test_the_pickle_holds_what_was_fitted_however_late_it_is_written(data, tmp_path, monkeypatch):
    """The writer is held up: scoring, which writes factors over the covariances, waits for it."""
    real, order = direct.Writer.write, []

    def write(writer, content):
        time.sleep(0.5)
        order.append("written")
        return real(writer, content)

    read = Saving.wait_read

    def wait_read(saving):
        read(saving)
        order.append("factors")

    monkeypatch.setattr(direct.Writer, "write", write)
    monkeypatch.setattr(Saving, "wait_read", wait_read)
    assert main.main([*faults.command(data, tmp_path / "late")[2:], "--classes", "flange"]) == 0
    assert order[-1] == "factors" and order.count("written") > 2
    monkeypatch.undo()
    assert main.main([*faults.command(data, tmp_path / "out")[2:], "--classes", "flange"]) == 0
    paths = [tmp_path / name / f"temp_{faults.ARCH}" / "train_flange.pkl" for name in ("late", "out")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_pickle_that_fails_costs_the_class_before_nothing(refused, tmp_path, monkeypatch):
    """Its figures are finished and it counts as done, though the second class's pickle could not be written."""
    real, out = direct.Writer.finish, tmp_path / "out"

    def finish(writer):
        if (out / f"temp_{faults.ARCH}" / "train_flange.json").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(writer)

    monkeypatch.setattr(direct.Writer, "finish", finish)
    message = refused(out, "--figures", "all")
    assert "train_linen.pkl" in message and "--no_features" in message
    assert Store(out, faults.ARCH).read_results()["run"]["finished"] == ["flange"]
    assert len(list((out / f"pictures_{faults.ARCH}").iterdir())) == 3 and not list(out.rglob("*.tmp"))


def test_the_same_command_twice_gives_the_same_bits(data, reference, tmp_path):
    """Whatever the number of workers; and the results say what the data and the weights were."""
    wanted, out = reference[0].wanted, reference[1]
    run = faults.finish(data, tmp_path / "again", "--num_workers", "3")
    assert run.returncode == 0 and faults.outcome(tmp_path / "again") == wanted
    results = json.loads((out / f"results_{faults.ARCH}.json").read_text(encoding="utf-8"))
    assert results["run"]["command"].startswith("python ") and "--num_workers 1" in results["run"]["command"]
    assert results["run"]["versions"]["numpy"] == np.__version__
    assert len(results["run"]["configuration"]["weights_sha256"]) == 64
    assert len({wanted["rows"][n][k] for n in ("flange", "linen") for k in ("training_files", "test_files")}) == 4


ABORT = """
import _thread, sys, threading, time
from pathlib import Path
import numpy as np
from experiment.files.gaussians import Progress, write_fitted
mean, covariance = np.zeros((3000, 300), np.float32), np.zeros((3000, 300, 300), np.float32)  # 1.1 GB
progress = Progress()
writer = threading.Thread(target=write_fitted, args=(Path(sys.argv[1]), mean, covariance, {}, None, progress))
threading.excepthook = lambda problem: print(problem.exc_type.__name__)
writer.start()
while not any(p.stat().st_size > 1 << 26 for p in Path(sys.argv[1]).parent.glob("*.tmp")):
    time.sleep(0.001)
start = time.perf_counter()
progress.stop.set()
writer.join()
print(f"{time.perf_counter() - start:.3f}")
"""


def test_a_pickle_being_written_is_given_up_at_once(tmp_path):
    """Its content in slices, its way to the disk in ranges; nothing is left, and nothing is changed."""
    path = tmp_path / "temp" / "train_x.pkl"
    path.parent.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", ABORT, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    kind, seconds = run.stdout.split()
    assert kind == "AbortedError" and float(seconds) < 2, run
    assert not list(path.parent.iterdir())
