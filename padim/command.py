"""What the commands share: one ``error:`` line for a user's mistake, and an end in one line on a signal."""

import _thread
import argparse
import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = (130, 143)  # Ctrl-C、SIGTERM 之后的退出状态


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends the work as Ctrl-C does."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one ``error:`` line."""

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}; see --help\n")


def at_least(low: int) -> Callable[[str], int]:
    """An argument type: integers from ``low`` on."""

    def number(text: str) -> int:
        if int(text) < low:
            raise ValueError
        return int(text)

    number.__name__ = f"integer (at least {low})"  # argparse 报错时以此称呼
    return number


def extent(low: int) -> Callable[[str], int | tuple[int, int]]:
    """An argument type: ``N``, or ``HxW`` (height first), of integers from ``low`` on."""

    def pixels(text: str) -> int | tuple[int, int]:
        if "x" not in text:
            return at_least(low)(text)
        height, width = map(at_least(max(low, 1)), text.split("x"))
        return height, width

    pixels.__name__ = f"number of pixels (N, or HEIGHTxWIDTH; at least {low})"
    return pixels


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError
    return names


_names.__name__ = "list of names with commas between them"


def _class_name(text: str) -> str:
    """As a shell completes a folder's name: ``bottle/``."""
    return text.rstrip("/" + os.sep) or text


def cores() -> int:
    """This process's part of the machine's cores: torchrun may have started several here."""
    return (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def experiment_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that fit models: data, backbone, where results go, how it is computed."""
    workers = max(1, min(8, cores() - 1))
    add = parser.add_argument
    add("--arch", help="backbone: wide_resnet50_2, resnet18, efficientnet_b5, or another of torchvision's")
    add("--layers", type=_names, metavar="A,B,C", help="the layers that are read (default: the backbone's own)")
    data_path = "one folder a class, or one class (default $MVTEC_PATH, else data/mvtec_anomaly_detection)"
    add("--data_path", type=Path, help=data_path)
    add("--save_path", type=Path, help="where results go (default mvtec_result)")
    add(
        "--classes",
        type=_class_name,
        nargs="+",
        metavar="NAME",
        help="default: the MVTec AD classes that are there, else all found",
    )
    add("--weights", help="imagenet (default), random, or the path of a state dict")
    add("--seed", type=int, default=1024, help="of the random choice of channels (default 1024)")
    resize = "shorter side in pixels, or HEIGHTxWIDTH exactly (default 256)"
    add("--resize", type=extent(1), default=256, metavar="N", help=resize)
    add("--crop", type=extent(0), default=224, metavar="N", help="side, or HEIGHTxWIDTH; 0 for none (default 224)")
    protocol = "aligned (default), or rd: random rotation and crop of all pictures, from --seed (Rd-MVTec AD)"
    add("--protocol", choices=["aligned", "rd"], default="aligned", help=protocol)
    add("--batch_size", type=at_least(1), default=32, help="images a forward pass (default 32)")
    add("--num_workers", type=at_least(0), default=workers, help="decoding threads (default %(default)s)")
    add("--device", default="auto", help="auto (default: CUDA if there is one), cpu, cuda or cuda:N")
    precisions = ["float32", "tf32", "bf16"]
    add("--precision", choices=precisions, default="float32", help="float32 (default), tf32 (GPU), bf16")


def complete(args: argparse.Namespace, **defaults: Any) -> None:
    """Fill in what was not given: ``defaults``, else the experiment's."""
    data = Path(os.environ.get("MVTEC_PATH") or "data/mvtec_anomaly_detection")
    usual = {"data_path": data, "save_path": Path("mvtec_result"), "weights": "imagenet"}
    for name, value in (usual | defaults).items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def is_divided() -> bool:
    """Whether torchrun has started this process as one of several."""
    known = all(os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return known and int(os.environ["WORLD_SIZE"]) > 1


def run(
    work: Callable[[], None],
    interrupted: str,
    terminated: str | None = None,
    may_speak: Callable[[], bool] = lambda: True,
) -> int:
    """Call ``work``; the exit status: 0 done, 2 a mistake in one line on stderr, 130 for Ctrl-C, 143 for SIGTERM.

    Parameters
    ----------
    work : callable
    interrupted : str
        What is said on Ctrl-C and SIGTERM.
    terminated : str, optional
        What is said on SIGTERM, where that is something else.
    may_speak : callable
        Whether this process, among several, is the one to say how the run ended.
    """
    for stream in (sys.stdout, sys.stderr):  # 控制台的编码写不出的字，不值得中断实验
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # 等在栅栏前的 OpenMP 线程让出核，给解码线程用；须在装入 torch 之前
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()

    # 一亿像素的工业图像并不可疑；再大一倍的，Pillow 报错而不只是警告
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")

    def again(unraisable: Any) -> None:
        # 落在析构函数里的 Ctrl-C 会被解释器吞掉：再发一次
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _thread.interrupt_main(signal.SIGTERM if unraisable.exc_type is Terminated else signal.SIGINT)
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, again
    try:
        with _terminable():
            status = _attempt(work, may_speak)
    except KeyboardInterrupt as kind:
        sys.unraisablehook = lambda _: None  # 构造到一半的进度条，其析构的抱怨不值得一提
        status = INTERRUPTED[isinstance(kind, Terminated)]
    if status in INTERRUPTED:  # 出了 except，进度条已随各帧收起：这一行在最后
        if may_speak():
            print(_apart(interrupted if status == INTERRUPTED[0] else terminated or interrupted), file=sys.stderr)
    else:
        sys.unraisablehook = before
    return status


def _keep_freed_memory() -> None:
    """Have the C library keep the memory that a forward pass frees for the next one.

    Handing it back to the system, and having every page of it zeroed again, takes up to a tenth of the time.
    """
    with suppress(OSError, TypeError, AttributeError):  # 只有 glibc 有
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_THRESHOLD：更大的才单独映射；旧的 glibc 至多许 32 MB
        if not mallopt(-3, 1 << 30):
            mallopt(-3, 1 << 25)
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def load(library: str) -> None:
    """Import a library in a thread of its own, while the main thread stays open to signals.

    A `KeyboardInterrupt` raised within an import makes the C++ code of some libraries abort the process.
    """
    problems: list[BaseException] = []

    def work() -> None:
        try:
            import_module(library)
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # 不带时限的等待在 Windows 上不可中断
    if problems:
        raise problems[0]


def leave(status: int) -> NoReturn:
    """End the process at once, without the interpreter's own clearing up, which takes up to a second."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # 写不出的，由解释器照常报告
        if status not in INTERRUPTED:
            sys.exit(status)
    os._exit(status)


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


def obey_parent() -> None:
    """In a child process: leave Ctrl-C to the parent, and end when the parent has ended, however that was."""
    from multiprocessing import parent_process

    def follow() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # 终端的 Ctrl-C 送给整个进程组；子进程由主进程来收
    if parent := parent_process():
        threading.Thread(target=follow, daemon=True).start()


def _attempt(work: Callable[[], None], may_speak: Callable[[], bool]) -> int:
    try:
        work()
        return 0
    except Exception as problem:
        message = explain(problem)
        if message is None:
            raise
    if may_speak():
        print(_apart(f"error: {message}"), file=sys.stderr)
    return 2


def _apart(line: str) -> str:
    """The line on a line of its own, where another process may have left a progress bar."""
    return f"\n{line}" if is_divided() else line


def explain(problem: Exception) -> str | None:
    """What the user must change, in one line; None for a bug, which deserves its traceback."""
    # 出了错才装入：此时 torch 多半已在；参数错误不必等它
    from concurrent.futures.process import BrokenProcessPool

    from torch import OutOfMemoryError

    from datasets.images import DataError
    from padim.backbone import ArchitectureError, WeightsError
    from padim.device import DeviceError
    from padim.distributed import RankError, UnlikeError
    from padim.embedding import DimensionError
    from padim.files import FULL
    from padim.gaussian import FeatureError, NotPositiveDefiniteError
    from padim.memory import TooLargeError
    from padim.metrics import NotFiniteError
    from padim.store import StoreError

    own = (DataError, ArchitectureError, WeightsError, StoreError, DeviceError, TooLargeError, UnlikeError)
    if isinstance(problem, own):
        return str(problem)
    if isinstance(problem, RankError):
        return f"{problem}; the same command goes on from the last finished class"
    if isinstance(problem, DimensionError):
        return f"{problem}; give a smaller --rd"
    if isinstance(problem, (FeatureError, NotFiniteError)):
        return f"{problem}: the weights hold NaN or are far out of scale; try other --weights"
    if isinstance(problem, NotPositiveDefiniteError):
        return f"{problem}: its features are far out of scale for float32; try other --weights, or a smaller --rd"
    if isinstance(problem, (MemoryError, OutOfMemoryError)):
        return "out of memory; a smaller --batch_size or --rd needs less"
    if isinstance(problem, BrokenProcessPool):
        return "a process that draws figures was killed, maybe for want of memory; the same command goes on from here"
    if isinstance(problem, OSError):
        where = f"{problem.filename!r}: " if problem.filename else ""
        if problem.errno in FULL:
            hint = "make room or give another --save_path; --no_features leaves out the largest files"
            return f"{where}{problem.strerror}; {hint}"
        return f"{where}{problem.strerror or problem}; see --save_path and --data_path"
    return None
