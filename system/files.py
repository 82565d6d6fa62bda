"""Files that are whole or absent: written under another name, their room taken first.

文件要么完整、要么没有：先写在别的名字下，先占好磁盘空间。
"""

import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import BinaryIO, TypedDict

import numpy as np

from system.errors import FULL, UserError


class TextOptions(TypedDict):
    """What `open` and `str.encode` are told."""

    encoding: str
    errors: str


# 文件名里不是 UTF-8 的字节（代理码位）写成 \udcXX：在 JSON 里这正是转义，读回的还是原来的名字
TEXT: TextOptions = {"encoding": "utf-8", "errors": "backslashreplace"}
_LEFTOVER = re.compile(r".+\.(pkl|json|npy|npz|png|csv)\.\d+\.tmp")


def expanded(text: str) -> Path:
    """A path, whose ``~`` no shell has replaced where it stands in a variable or behind a ``=``."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # 没有这个用户：就是这个名字
        return Path(text)


class Staged:
    """Files that are written under temporary names, and get their own together, just after those they replace are gone.

    A context: at its end the files get their names; on an error they are deleted, and nothing has changed. Where files
    belong together, those that vouch for the others are removed first and renamed last: whatever comes between, a kill
    or a power failure, what vouches for the others is there only where it is right.
    """

    def __init__(self) -> None:
        self._written: dict[Path, Path] = {}  # 名字 → 临时的名字
        self._vouching: set[Path] = set()
        self._leaving: list[Path] = []

    @contextmanager
    def writing(self, path: Path, *, vouches: bool = False, sync: bool = True) -> Iterator[Path]:
        """A temporary name beside ``path`` to write to, deleted on an error.

        Parameters
        ----------
        path : Path
        vouches : bool
            Whether the file tells that others are there and belong to it.
        sync : bool
            Whether its content is on the disk before it has its name: after a power failure, too, it is the old or
            the new one then.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            with _blaming(path, temporary):
                yield temporary
                if sync:
                    with open(temporary, "rb+") as file:
                        os.fsync(file.fileno())
        except BaseException:
            _delete(temporary)
            raise
        self._written[path] = temporary
        if vouches:
            self._vouching.add(path)

    def remove(self, *paths: Path) -> None:
        """Files that are to go when the others get their names."""
        self._leaving += paths

    def commit(self) -> None:
        """Remove, then rename: what vouches for other files first of all, and last."""
        for path in [*self._vouching, *self._leaving]:
            path.unlink(missing_ok=True)
        for path in sorted(self._written, key=self._vouching.__contains__):
            with _blaming(path, self._written[path]):
                self._written[path].replace(path)
            del self._written[path]

    def drop(self) -> None:
        """Delete what has not got its name."""
        for temporary in self._written.values():
            _delete(temporary)
        self._written.clear()

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.drop()


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, deleted on an error; ``sync`` as in `Staged`."""
    with Staged() as staged, staged.writing(path, sync=sync) as temporary:
        yield temporary


def _temporary(path: Path) -> Path:
    """A name beside ``path`` that is no longer than the longest of file systems' names."""
    name = f"{path.name}.{os.getpid()}.tmp"
    if len(os.fsencode(name)) > 255:  # 名字本身合法，加上后缀就太长
        name = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{path.suffix}.{os.getpid()}.tmp"
    return path.with_name(name)


@contextmanager
def _blaming(path: Path, temporary: Path) -> Iterator[None]:
    """An error in writing ``temporary`` names ``path``."""
    try:
        yield
    except OSError as problem:
        if problem.filename in (None, str(temporary)):  # 写文件时的错误不带文件名；临时的名字不必给人看
            problem.filename = str(path)
        raise


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: dict, staged: Staged | None = None) -> None:
    """Write ``content`` as JSON, together with ``staged`` if given; NaN is refused, since no other reader takes it.

    Names that are no UTF-8, which a file system may have, come back as they were.
    """
    with replacing(path) if staged is None else staged.writing(path) as temporary:
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


def allocate(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
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
        close(array)
        if problem.errno not in FULL:
            raise
        raise OSError(problem.errno, f"no room for {size(array.nbytes)}", str(path)) from problem
    return array


def close(array: np.memmap) -> None:
    """Let go of a mapped file, after which the array must not be touched."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None:
        mapping.close()


def scratch(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 in a file without a name, which goes with the array; its room on the disk is taken now.

    Raises
    ------
    OSError
        If the disk is full; the message says how much is needed.
    """
    count = 4 * prod(shape)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            _reserve(file, 0, count)
        except OSError as problem:
            raise OSError(problem.errno, f"no room for {size(count)}", str(folder)) from problem
        return np.memmap(file, np.float32, "r+", shape=shape)


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


def check_writable(folder: Path) -> None:
    """Raise OSError unless a file can be made in ``folder``; what was not there is not left."""
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def check_room(path: Path, needed: int, remedy: str) -> None:
    """Raise UserError unless so many bytes are free where ``path`` is or would be, beside what they may replace.

    Parameters
    ----------
    path : Path
    needed : int
    remedy : str
        Ends the message: "make room, or …".

    Raises
    ------
    UserError
    """
    if (room := shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free) < needed:
        raise UserError(f"{str(path)!r} needs {size(needed)}, and {size(room)} are free there; make room, or {remedy}")


@contextmanager
def without_leftovers(places: list[tuple[Path, str]]) -> Iterator[None]:
    """Delete, before and after, what `replacing` left when its process was killed.

    Whoever calls this holds a lock: no temporary file is another's then.

    Parameters
    ----------
    places : list of (Path, str)
        A folder, and what its files' names must begin with.
    """

    def remove() -> None:
        for folder, part in places:
            for path in folder.iterdir() if folder.is_dir() else ():
                if _LEFTOVER.fullmatch(path.name) and path.name.startswith(part):
                    path.unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        with suppress(OSError):  # 不盖过真正的错误
            remove()
