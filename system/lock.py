"""One writer at a time in a folder.

一个文件夹同时只有一个写者。
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from system.errors import UserError


@contextmanager
def lock(path: Path, remedy: str) -> Iterator[None]:
    """Hold the lock file ``path``, in a folder that is made if need be; a folder that stays empty goes again.

    The lock is the operating system's, on the open file: it ends with the process, however that ends. Who holds
    it stands in a file beside it.

    Parameters
    ----------
    path : Path
    remedy : str
        What to do where another process holds it.

    Raises
    ------
    UserError
        If another process holds it; the message names that process.
    OSError
        If it cannot be made.
    """
    made = [place for place in path.parents if not place.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.name}_holder")
    own = FileLock(path, timeout=0)
    try:
        try:
            own.acquire()
        except Timeout as problem:
            who = "another process"
            with suppress(OSError):
                who = holder.read_text(encoding="utf-8", errors="replace").strip() or who
            raise UserError(
                f"{str(path.parent)!r} is being written by {who}; wait until it has ended, or {remedy}"
            ) from problem
        try:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            yield
        finally:
            for file in (holder, path) if os.name == "posix" else (holder,):  # Windows 不许删去打开着的文件
                with suppress(OSError):
                    file.unlink()
            own.release()
    finally:
        for place in made:
            with suppress(OSError):  # 不空的留着
                place.rmdir()
