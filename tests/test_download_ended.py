"""The download as a process: interrupted, killed, started twice; without torch."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from mvtec_server import WHOLE, Server, error, files, serving, unpacked

from datasets.download import ARCHIVE

# 模块照命令行那样运行，只是哈希是小档案的
AS_COMMAND = """
import runpy, sys
from datasets import download
download.SHA256 = sys.argv.pop(1)
sys.argv[0] = "datasets.mvtec"
try:
    runpy.run_module("datasets.mvtec", run_name="__main__")
finally:
    if not {"torch", "torchvision"}.isdisjoint(sys.modules):
        print("error: torch is there")
"""


def start(server: Server, folder) -> subprocess.Popen:
    """The command as a process of its own; it has begun to download when this returns, unless it has ended."""
    words = [sys.executable, "-c", AS_COMMAND, hashlib.sha256(WHOLE).hexdigest(), "--download", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    process = subprocess.Popen([*words, "--url", server.url, "--accept-license"], cwd=ROOT, **pipes)
    part = folder / f"{ARCHIVE}.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    return process


@pytest.fixture
def slow(monkeypatch):
    """A server that sends more than is read in one go, and stops halfway."""
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        server.content += bytes(2 << 20)
        server.flows.clear()
        yield server


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_interrupted_and_gone_on_with(slow, tmp_path, name):
    """In one line, with what is downloaded kept; without torch from beginning to end."""
    process = start(slow, tmp_path / "x")
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=30)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line and "B/s" not in line]
    assert lines == ["interrupted; the same command goes on from there"] and "error" not in out
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143}[name]
    assert [p.name for p in (tmp_path / "x").iterdir()] == [f"{ARCHIVE}.part"]
    slow.content = WHOLE  # 再来的一次：已有的比整个文件还长，从头取
    slow.flows.set()
    process = start(slow, tmp_path / "x")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "wrote MVTec AD" in out and "error" not in out, err
    assert files(tmp_path / "x") == unpacked()


def test_two_downloads_into_one_folder(slow, tmp_path):
    """The second is refused, and the first goes on; a killed one leaves no lock that holds."""
    first = start(slow, tmp_path)
    second = start(slow, tmp_path)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 2 and "--download" in error(err) and f"process {first.pid} on " in err
    assert first.poll() is None and len(slow.asked) == 1
    first.kill()
    first.communicate(timeout=30)
    slow.content = WHOLE
    slow.flows.set()
    third = start(slow, tmp_path)
    _, err = third.communicate(timeout=60)
    assert third.returncode == 0, err
    assert files(tmp_path) == unpacked()
