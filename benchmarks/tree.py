"""Running a command and watching the memory of its process tree."""

import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """A finished command: seconds of the whole process, and the tree's peak bytes (None off Linux)."""

    seconds: float
    peak_memory_bytes: int | None
    stdout: str


def _tree(root: int) -> list[int]:
    children = [root]
    for pid in children:  # 列表在遍历中增长：逐层展开
        with suppress(OSError):  # 进程刚刚结束
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                children += [int(child) for child in path.read_text().split()]
    return children


def _resident(root: int) -> int:
    """Proportional set size of the tree: a page shared by k processes counts 1/k in each."""
    total = 0
    for pid in _tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # 进程刚刚结束
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measure(
    command: list[str], cwd: Path, environment: dict[str, str] | None = None, interval: float = 0.5
) -> Measured:
    """Run a command to its end; its tree is looked at every ``interval`` seconds.

    A look costs the kernel milliseconds a gigabyte, hence not oftener.

    Raises
    ------
    RuntimeError
        If it fails; the message is the end of what it wrote to stderr.
    """
    start, peak, ended = time.perf_counter(), 0, threading.Event()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    linux = Path(f"/proc/{process.pid}/smaps_rollup").exists()

    def watch() -> None:
        nonlocal peak
        while linux and not ended.wait(interval):
            try:
                peak = max(peak, _resident(process.pid))
            except OSError:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {err[-2000:]}")
    return Measured(seconds, peak or None, out)
