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
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

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
        with _interruptible(interrupted):
            status = work() or 0
            sys.stdout.flush()  # 退出时才写，就没有人来说写不下了
            return status
    except KeyboardInterrupt as kind:
        status, message = 143 if isinstance(kind, Terminated) else 130, interrupted
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # 解释器收尾时再按，不留下回溯
    except Exception as problem:
        found = explain(problem)
        if found is None:
            raise
        status, message = 2, f"error: {found}"
    finally:
        discard_unwritten(sys.stdout)
    # 出了 except，进度条已随各帧收起：这一行在最后。别的进程也许留下了半行
    with suppress(BrokenPipeError):  # 读者都走了：没有人可说
        print(f"\n{message}" if "LOCAL_RANK" in os.environ else message, file=sys.stderr, flush=True)
    discard_unwritten(sys.stderr)
    return status


def discard_unwritten(stream: TextIO) -> None:
    """Let go what cannot be written, if there is any: the interpreter would try again at its end."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def importing() -> Iterator[None]:
    """Import PyTorch without a search for cycles among hundreds of thousands of objects, which are there to stay."""
    if "torch" in sys.modules:
        yield
        return
    gc.disable()  # predict.py 快 17 %
    try:
        yield
    finally:
        _freeze()
        gc.enable()


def _freeze() -> None:
    """Spare the interpreter, also when it ends, the search for cycles among the objects that are there."""
    # 退出时做，整条命令就快 9 %。但 nanobind 的库（如 triton 3.9）那时清点自己的类，还在的都当作泄漏报出来：有它就不做
    if all(kind.__module__ != "nanobind" for kind in object.__subclasses__()):
        gc.freeze()


@contextmanager
def _interruptible(interrupted: str) -> Iterator[None]:
    """Raise `Terminated` on SIGTERM; a second Ctrl-C ends at once. Only the main thread may, and can, be told."""

    def terminate(*_: object) -> None:
        raise Terminated

    def again(*_: object) -> None:
        os.write(2, f"{interrupted}\n".encode())  # 信号处理中，print 未必可重入
        os._exit(130)

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, again)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: terminate}
    # 别人管着 Ctrl-C 的（nohup、父进程），笔记本里的（那里不许结束进程），都由他们
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not hasattr(sys, "ps1"):
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(future: Future) -> None:
    """Wait until a future is done; a wait without a time limit could not be interrupted on Windows."""
    while not future.done():
        wait([future], 0.2)
