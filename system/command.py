"""How every command ends: one ``error:`` line for a user's mistake, one line on a signal, and by returning.

每条命令怎样收尾：使用者的错误一行，信号一行，返回退出状态。
"""

import argparse
import atexit
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import NoReturn

from system.errors import explain


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends the work as Ctrl-C does."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one ``error:`` line, with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def yield_while_waiting() -> None:
    """Let OpenMP's threads that wait at a barrier leave the cores to others; works before torch is imported."""
    # 核让给解码线程：整条命令快 14 %
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run(
    work: Callable[[], int | None],
    interrupted: str = "interrupted",
) -> int:
    """Call ``work`` and say how it ended.

    Parameters
    ----------
    work : callable
        Returns the exit status, or None for 0.
    interrupted : str
        What is said on Ctrl-C and SIGTERM.

    Returns
    -------
    int
        The exit status: what ``work`` returned, 2 for a mistake of the user, 130 after Ctrl-C, 143 after SIGTERM.

    Raises
    ------
    Exception
        What is no mistake of the user's.
    """
    for stream in (sys.stdout, sys.stderr):  # 控制台的编码写不出的字，不值得中断实验
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    yield_while_waiting()
    atexit.register(_freeze)
    # 一亿像素的工业图像并不可疑；再大一倍的，Pillow 报错而不只是警告
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    try:
        with _terminable():
            return work() or 0
    except KeyboardInterrupt as kind:
        status, message = 143 if isinstance(kind, Terminated) else 130, interrupted
    except Exception as problem:
        found = explain(problem)
        if found is None:
            raise
        status, message = 2, f"error: {found}"
    # 出了 except，进度条已随各帧收起：这一行在最后。别的进程也许留下了半行
    print(f"\n{message}" if "LOCAL_RANK" in os.environ else message, file=sys.stderr)
    return status


def _freeze() -> None:
    """Spare the interpreter, which is ending, the search for cycles among hundreds of thousands of objects."""
    # 整条命令快 9 %。但 nanobind 的库（如 triton 3.9）此时清点自己的类，还在的都当作泄漏报出来：有它就不做
    if all(kind.__module__ != "nanobind" for kind in object.__subclasses__()):
        gc.freeze()


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM; only the main thread may, and can, be told."""

    def terminate(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_for(future: Future) -> None:
    """Wait until a future is done; a wait without a time limit could not be interrupted on Windows."""
    while not future.done():
        wait([future], 0.2)
