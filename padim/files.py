"""Files that are whole or absent: written under another name, their room taken first, one writer at a time."""

import errno
import json
import mmap
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # 磁盘满，或配额用尽
# 文件名里不是 UTF-8 的字节（代理码位）写成 \udcXX：在 JSON 里这正是转义，读回的还是原来的名字
TEXT = {"encoding": "utf-8", "errors": "backslashreplace"}
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_LEFTOVER = re.compile(r".+\.(pkl|json|npy|npz|png|csv)\.\d+\.tmp")


class LockedError(ValueError):
    """Another run writes here."""


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, deleted on an error.

    With ``sync`` the content is on the disk before it has the name: after a power failure, too, the
    file is the old or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        if problem.filename in (None, str(temporary)):  # 写文件时的错误不带文件名；临时的名字不必给人看
            problem.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write ``content`` as JSON; NaN is refused, since no other reader takes it.

    Names that are no UTF-8, which a file system may have, come back as they were.
    """
    with replacing(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        text = re.sub(r"\[\n[-+.,\deE\s]*\]", lambda m: " ".join(m[0].split()), text)  # 数列不必一数一行
        temporary.write_text(text + "\n", **TEXT)


def read_json(path: Path) -> dict | None:
    """The JSON object in ``path``, or None where there is no file or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def allocate(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A mapped ``.npy`` file of zeros to fill; its room on the disk is taken now.

    A sparse file would meet a full disk only when it is filled, and through a mapping that is no
    exception but the end of the process (SIGBUS).

    Raises
    ------
    OSError
        If the disk is full; the message says how much is needed.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    try:
        with open(path, "rb+") as file:
            _reserve(file, array.offset, array.nbytes)
    except OSError as problem:
        array._mmap.close()
        if problem.errno not in FULL:
            raise
        raise OSError(problem.errno, f"no room for {size(array.nbytes)}", str(path)) from problem
    return array


@contextmanager
def scratch(folder: Path, shape: tuple[int, ...], most: int) -> Iterator[np.ndarray]:
    """Zeros, uint8: in memory up to ``most`` of them, else in a file without a name, gone at the end."""
    if prod(shape) <= most:
        yield np.zeros(shape, np.uint8)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, 0, prod(shape))
        yield np.memmap(file, np.uint8, "r+", shape=shape)


def forget(*arrays: np.ndarray) -> None:
    """Let go of the pages of mapped files that were touched; what was written stays in the files."""
    for array in arrays:
        mapping = getattr(array, "_mmap", None)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def _reserve(file: BinaryIO, start: int, count: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, start + count)
        return
    file.seek(start)
    zeros = bytes(min(count, 1 << 24))
    for written in range(0, count, len(zeros)):
        file.write(zeros[: count - written])
    file.flush()


def size(count: int) -> str:
    """Bytes in words."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def free_room(path: Path) -> int:
    """Free bytes on the disk where ``path`` is or would be."""
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


@contextmanager
def without_leftovers(places: list[tuple[Path, str]]) -> Iterator[None]:
    """Delete, before and after, what `replacing` left when its process was killed.

    Whoever calls this holds a lock: no temporary file is another's then.

    Parameters
    ----------
    places : list of (Path, str)
        A folder, and what its files' names must have in them.
    """

    def remove() -> None:
        for folder, part in places:
            for path in folder.iterdir() if folder.is_dir() else ():
                if _LEFTOVER.fullmatch(path.name) and part in path.name:
                    path.unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, deleted at the end; its folder appears if need be.

    The lock is the operating system's, on the open file: it ends with the process, however that ends.

    Raises
    ------
    LockedError
        If another process holds it; the message says which.
    OSError
        If it cannot be made. (On a file system without locks, nothing is locked.)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(path)
    try:
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        file.flush()
        yield
    finally:
        with suppress(OSError):  # Windows 不许删去打开着的文件：先关后删
            if os.name == "nt":
                file.close()
            path.unlink()
        file.close()


def _locked(path: Path) -> BinaryIO:
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT), "r+b")
        try:
            _lock(file)
        except OSError as problem:
            if problem.errno not in _BUSY:
                return file
            with file:
                file.seek(0)
                holder = file.readline(200).decode(errors="replace").strip() or "another process"
            raise LockedError(f"{str(path.parent)!r} is being written by {holder}") from problem
        # 锁到手之前，前一个持有者可能刚删去了这个名字
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _lock(file: BinaryIO) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        file.seek(1 << 30)  # 锁住内容之外的一个字节，内容仍可读
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
