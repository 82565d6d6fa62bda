"""A process ends by returning: profilers write, a notebook's kernel lives on, the same process can run again."""

import os
import pstats
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ROOT

import main
import predict
from experiment import options
from padim.weights import load_network
from system.errors import UserError

TINY = ["--arch", "resnet18", "--weights", "random", "--rd", "5", "--resize", "32", "--crop", "0", "--figures", "2"]

# 与 %run 相同：在正在运行的解释器里，以 __main__ 之名执行文件；SystemExit 由笔记本接住
KERNEL = """
import gc, os, runpy, signal, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook
for attempt in range(2):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print("ended with", end.code)
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook) == before
assert gc.isenabled()
print("alive")
"""


@pytest.mark.slow
def test_a_profile_is_written(sample, tmp_path):
    words = ["--data_path", str(sample), "--save_path", str(tmp_path / "out"), "--classes", "linen"]
    command = [sys.executable, "-m", "cProfile", "-o", str(tmp_path / "profile"), str(ROOT / "main.py"), *TINY, *words]
    assert subprocess.run(command, capture_output=True).returncode == 0
    functions = {name for _, _, name in pstats.Stats(str(tmp_path / "profile")).stats}
    assert {"experiment", "fit", "score", "finish", "update"} <= functions


def test_a_notebooks_kernel_lives_on(sample, tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL, encoding="utf-8")
    words = ["--data_path", str(sample), "--save_path", str(tmp_path / "out"), "--classes", "linen"]
    command = [sys.executable, str(tmp_path / "kernel.py"), str(ROOT / "main.py"), *TINY, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ended with 0") == 2 and done.stdout.endswith("alive\n")
    assert "using the stored features" in done.stdout


def words(sample, out) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *TINY, "--data_path", str(sample), "--save_path", str(out)]


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX's pipes and signals")


@posix
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_of_standard_output_that_has_gone(sample, tmp_path, both):
    """One plain line, or silence where nobody reads that either."""
    reading, writing = os.pipe()
    os.close(reading)
    errors = writing if both else subprocess.PIPE
    done = subprocess.run(words(sample, tmp_path / "out"), stdout=writing, stderr=errors, text=True, encoding="utf-8")
    os.close(writing)
    assert done.returncode == 2
    if not both:
        lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if "|" not in line and line.strip()]
        *remarks, line = lines
        assert all(each.startswith("linen: ") or each.startswith("flange: ") for each in remarks)
        assert line.startswith("error: nobody reads standard output")
    assert not list(tmp_path.rglob("*.tmp"))


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_on_a_full_disk(sample, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(words(sample, tmp_path / "out"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "Exception" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error: ") == 1


ENDING = """
import atexit, sys, time
sys.path.insert(0, sys.argv[1])
from system import command
class Work:
    def __enter__(self):
        print("working", flush=True)
    def __exit__(self, *_):
        if sys.argv[2] == "ending":  # as a run that waits for what goes on in the background
            print("ending", flush=True)
            time.sleep(30)
def late():
    print("ending", flush=True)
    time.sleep(1)
def work():
    if sys.argv[2] == "ended":
        atexit.register(late)  # as torch does
    with Work():
        time.sleep(30)
sys.exit(command.run(work, "interrupted; the same command goes on"))
"""


@posix
@pytest.mark.parametrize("state", ["ending", "ended"])
def test_a_second_ctrl_c_ends_without_a_traceback(state):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ENDING, str(ROOT), state], **pipes) as process:
        for said in ("working\n", "ending\n"):
            assert process.stdout.readline() == said
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        _, errors = process.communicate(timeout=20)
    assert time.perf_counter() - start < 5
    assert process.returncode == 130 and errors == "interrupted; the same command goes on\n", errors


def test_the_home_folder_where_no_shell_has_seen_it(sample, tmp_path, monkeypatch):
    """Behind a ``=``, and in a variable."""
    for home in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(home, str(tmp_path))
    shutil.copytree(sample / "linen", tmp_path / "data" / "linen")
    monkeypatch.setenv("MVTEC_PATH", "~/data")
    monkeypatch.chdir(tmp_path)
    assert main.main([*TINY, "--save_path=~/out"]) == 0
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["data", "out"]
    model = "~/out/temp_resnet18/train_linen.pkl"
    pictures = str(tmp_path / "data/linen/test")
    assert predict.main([f"--model={model}", "--out=~/scored", "--figures", "none", pictures]) == 0
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["data", "out", "scored"]
    with pytest.raises(UserError, match=f"no weights file '{tmp_path}/own"):
        load_network("resnet18", "~/own.pth")
    assert options.experiment(["--save_path", "~nobody_of_this_name/x"]).save_path.name == "x"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes another user")
def test_a_folder_that_cannot_be_read_beside_the_classes(sample):
    """As ``lost+found`` on a disk of one's own: no error unless it is asked for."""
    with TemporaryDirectory() as folder:  # pytest 自己的文件夹，别的用户进不去
        os.chown(folder, 65534, 65534)
        check_lost_and_found(shutil.copytree(sample, Path(folder) / "data"), Path(folder))


def check_lost_and_found(data, own):
    (data / "lost+found").mkdir(mode=0o700)
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = os.environ | {"HOME": str(own), "TMPDIR": str(own), "PYTHONDONTWRITEBYTECODE": "1"}
    for names, status in {"linen": 0, "lost+found": 2}.items():
        run = [*become, *words(data, own / "out"), "--classes", names]
        done = subprocess.run(run, capture_output=True, text=True, env=environment)
        assert done.returncode == status, done.stderr
    assert f"error: cannot read '{data / 'lost+found'}'" in done.stderr and "--classes" in done.stderr
