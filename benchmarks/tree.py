"""Running a command and watching the memory of its process tree.

运行一条命令，监视其进程树的内存。
"""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from system.errors import UserError


@dataclass(frozen=True)
class Measured:
    """A finished command.

    Attributes
    ----------
    seconds : float
        Of the whole process.
    peak_memory_bytes : int or None
        Of the process and all below it; None where the system does not tell (off Linux).
    stdout : str
    """

    seconds: float
    peak_memory_bytes: int | None
    stdout: str


def _proportional(root: psutil.Process) -> int:
    """Proportional set size of the tree: a page shared by k processes counts 1/k in each."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += getattr(process.memory_full_info(), "pss", 0)
        except psutil.Error:  # 进程刚刚结束
            continue
    return total


def measure(
    command: list[str], cwd: Path, environment: dict[str, str] | None = None, interval: float = 0.5
) -> Measured:
    """Run a command to its end; its tree is looked at every ``interval`` seconds.

    A look costs the kernel milliseconds a gigabyte, hence not oftener.

    Parameters
    ----------
    command : list of str
    cwd : Path
    environment : dict, optional
        Variables besides this process's.
    interval : float

    Raises
    ------
    UserError
        If it fails; the message is the end of what it wrote to stderr.
    """
    start, peak, ended = time.perf_counter(), 0, threading.Event()
    process = psutil.Popen(
        command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )

    def watch() -> None:
        nonlocal peak
        while not ended.wait(interval):
            try:
                peak = max(peak, _proportional(process))
            except psutil.Error:  # 命令刚刚结束
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if process.returncode:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: {err[-2000:]}")
    return Measured(seconds, peak or None, out)
