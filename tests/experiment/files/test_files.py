"""Whole files, locks and leftovers."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import ROOT
from test_fitted import WANTED

from datasets.sample import write_sample
from experiment.files.folder import Store
from experiment.files.gaussians import write_fitted
from experiment.files.provenance import stored_state
from experiment.files.records import read_fitted_record
from system import files
from system.errors import UserError
from system.files import allocate, read_json, replacing, size
from system.lock import lock


def child(code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


HOLD = """
    import sys
    from pathlib import Path
    from system.lock import lock
    with lock(Path(sys.argv[1]), "wait"):
        print("held", flush=True)
        sys.stdin.read()
"""


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
    """Killed without a chance to clean up, it leaves its two files but not the lock."""
    path = tmp_path / "sub" / ".lock"
    holder = child(HOLD, path)
    assert holder.stdout.readline() == "held\n"
    refused = rf"is being written by process {holder.pid} on .*; wait until it has ended, or look elsewhere"
    with pytest.raises(UserError, match=refused), lock(path, "look elsewhere"):
        pass
    holder.kill()
    holder.wait()
    assert names(path.parent) == [".lock", ".lock_holder"]
    with lock(path, "wait"):
        assert f"process {os.getpid()} " in path.with_name(".lock_holder").read_text()
        with pytest.raises(UserError), lock(path, "wait"):
            pass
        assert names(path.parent) == [".lock", ".lock_holder"]
    assert os.name != "posix" or names(path.parent) == []


def test_a_folder_made_for_a_lock_goes_again(tmp_path):
    with lock(tmp_path / "new" / "deep" / ".lock", "wait"):
        pass
    assert os.name != "posix" or names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows deletes no open file")
def test_a_lock_let_go_between_opening_and_locking(tmp_path, monkeypatch):
    """The name may be gone, or another's, by the time the lock is had: then it protects nothing."""
    import fcntl

    path, real, calls = tmp_path / ".lock", fcntl.flock, []

    def vanishing(file, operation):
        real(file, operation)
        calls.append(file)
        if len(calls) == 1:
            path.unlink()

    monkeypatch.setattr(fcntl, "flock", vanishing)
    try:
        with lock(path, "wait"), pytest.raises(UserError), lock(path, "wait"):
            assert path.exists()
    except UserError:  # 也可以不再试：总之不持有无名的锁
        pass


def test_the_folder_of_a_store_that_is_deleted_or_replaced(tmp_path):
    store = Store(tmp_path / "out", "resnet18")
    with store.locked():
        store.check_there()
        shutil.rmtree(store.root)
        with pytest.raises(UserError, match=r"out' was deleted or replaced.*--save_path"):
            store.check_there()
        store.root.mkdir()
        with pytest.raises(UserError, match="was deleted or replaced"):
            store.check_there()
    assert os.name != "posix" or names(tmp_path) == []


def test_leftovers_of_killed_runs_are_deleted_and_nothing_else(tmp_path):
    store = Store(tmp_path, "resnet18")
    keep = [
        "notes.tmp", "temp_resnet18/train_a.pkl", "temp_resnet18/mine.12.tmp", "temp_wide_resnet50_2/train_a.pkl.7.tmp",
        "results_wide_resnet50_2.json.12.tmp", "demo/results_resnet18.json.12.tmp",
    ]  # fmt: skip
    drop = [
        "temp_resnet18/train_a.pkl.12.tmp", "temp_resnet18/train_a.json.12.tmp", "scores_resnet18/a_maps.npy.345.tmp",
        f"scores_resnet18/a.npz.{os.getpid()}.tmp", "pictures_resnet18/a_0.png.9.tmp", "results_resnet18.json.12.tmp",
        "results_resnet18.csv.12.tmp", "roc_curve_resnet18.png.12.tmp",
    ]  # fmt: skip
    drop += [".lock_resnet18", ".lock_resnet18_holder"] if os.name == "posix" else []  # 被杀的运行留下的锁
    for name in keep + drop:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with store.locked():
        pass
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(keep)


def test_two_architectures_do_not_wait_for_each_other(tmp_path):
    with Store(tmp_path, "resnet18").locked(), Store(tmp_path, "wide_resnet50_2").locked():
        pass
    again = Store(tmp_path, "resnet18").locked()
    with Store(tmp_path, "resnet18").locked(), pytest.raises(UserError, match="--save_path"), again:
        pass


def test_the_room_of_a_mapped_file_is_taken_at_once(tmp_path, monkeypatch):
    for fallback in (False, True):
        if fallback:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        path = tmp_path / f"{fallback}.npy"
        array = allocate(path, np.float32, (3, 1000, 1000))
        array[1] = 7
        array.flush()
        assert os.name == "nt" or path.stat().st_blocks * 512 >= 12_000_000
        loaded = np.load(path)
        assert loaded.shape == (3, 1000, 1000) and loaded[1].min() == 7 and not loaded[0].any()


def test_no_room_is_an_error_that_says_how_much_is_needed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_reserve", full)
    with pytest.raises(OSError, match=r"no room for 12\.0 MB: .*x\.npy"):
        allocate(tmp_path / "x.npy", np.float32, (3, 1000, 1000))


def test_a_write_error_names_its_file(tmp_path):
    with pytest.raises(OSError) as caught, replacing(tmp_path / "x.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x.json")
    with pytest.raises(OSError) as caught, replacing(tmp_path / "x.json") as temporary:
        (temporary / "below").write_bytes(b"")
    assert caught.value.filename == str(temporary / "below")
    with pytest.raises(OSError) as caught, replacing(tmp_path / "x.json"):
        pass  # 什么也没写：临时文件不存在
    assert caught.value.filename == str(tmp_path / "x.json")


def test_sizes():
    assert [size(n) for n in (3, 4500, 2_000_000, 3_800_000_000)] == ["3 bytes", "4.5 kB", "2.0 MB", "3.8 GB"]


KILLED = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from experiment.files import gaussians
    calls = []
    def replace(self, target, real=Path.replace):
        calls.append(target)
        if len(calls) == int(sys.argv[2]):
            os._exit(9)
        return real(self, target)
    Path.replace = replace
    mean, covariance = np.ones((5, 2), np.float32), np.stack([np.eye(2, dtype=np.float32)] * 5)
    gaussians.write_fitted(Path(sys.argv[1]), mean, covariance, eval(sys.argv[3]))
"""


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("at", [1, 2])
def test_killed_between_a_pickle_and_its_record(tmp_path, at, first):
    """Before each of the renames the old pickle is gone already: there is no pair, and never another's."""
    path = tmp_path / "train_x.pkl"
    new = WANTED | {"training_files": "new"}
    if not first:
        write_fitted(path, np.zeros((5, 2), np.float32), np.stack([np.eye(2, dtype=np.float32)] * 5), WANTED)
    killed = child(KILLED, path, str(at), repr(new))
    assert killed.wait() == 9
    assert stored_state(path, new) == "none" and not path.exists()
    assert (read_json(path.with_suffix(".json")) is None) is (first and at == 1)
    why = "main.py writes them" if first and at == 1 else "killed; give its command again"
    with pytest.raises(UserError, match=f"no stored features.*{why}"):
        read_fitted_record(path)


def test_a_sample_that_was_killed_leaves_nothing_for_ever(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getppid(), "x"):
        (tmp_path / f"data.tmp{pid}" / "linen").mkdir(parents=True)
    write_sample(tmp_path / "data", 1, 0, 32)
    wanted = ["data", f"data.tmp{os.getppid()}", "data.tmpx"]
    assert names(tmp_path) == sorted(wanted if os.name == "posix" else [*wanted, f"data.tmp{ended.pid}"])
