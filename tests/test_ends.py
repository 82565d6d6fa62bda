"""A process ends by returning: profilers write, a notebook's kernel lives on, the same process can run again."""

import pstats
import subprocess
import sys

from conftest import ROOT

TINY = ["--arch", "resnet18", "--weights", "random", "--rd", "5", "--resize", "32", "--crop", "0", "--figures", "2"]

# 与 %run 相同：在正在运行的解释器里，以 __main__ 之名执行文件；SystemExit 由笔记本接住
KERNEL = """
import os, runpy, signal, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook
for attempt in range(2):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print("ended with", end.code)
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook) == before
print("alive")
"""


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
