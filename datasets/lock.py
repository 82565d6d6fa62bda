"""One writer at a time in a folder."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from datasets.errors import DataError

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only process that fills ``folder``, which is made if need be; if it stays empty it goes again.

    The lock is the operating system's, on an open file: it ends with the process, however that ends.

    Raises
    ------
    DataError
        If another process is filling it.
    OSError
        If it cannot be written to. (On a file system without locks, nothing is locked.)
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        file = _locked(path)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows 不许删去打开着的文件：先关后删
                if os.name == "nt":
                    file.close()
                path.unlink()
            file.close()
    finally:
        for place in made:
            with suppress(OSError):  # 不空的留着
                place.rmdir()


def _locked(path: Path) -> BinaryIO:
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            _lock(file)
        except OSError as problem:
            if problem.errno not in _BUSY:
                return file
            file.close()
            raise DataError(
                f"another process is filling {str(path.parent)!r}; wait until it has ended, or give another --download"
            ) from problem
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

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
