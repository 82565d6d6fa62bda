"""A pickle of arrays: as any numpy reads it; read without calling anything but numpy's constructors, and mapped.

数组的 pickle：写得哪个 numpy 都能读；读时除 numpy 的构造函数外什么也不调用，大块内容映射而不读入。
"""

import os
import pickle
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from system.errors import UserError

REMEDY = "give another --save_path, or --refit to replace it"
_LARGE = 1 << 20  # 这么长的内容不读入内存
# 本程序的文件只要 ndarray；其余的是别的程序以协议 0 至 4、numpy 1 或 2 写数组时所用的
NAMES = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
NAMES |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}


class DamagedError(UserError):
    """A stored file that is truncated or holds something else: it must be made again."""


def damaged(path: Path, reason: str) -> DamagedError:
    """The error that names the file and says why."""
    return DamagedError(f"{str(path)!r} is damaged or foreign ({reason})")


class Pickler(pickle.Pickler):
    """Writes an array as a call of `numpy.ndarray` on its own memory, which numpy 1 and 2 know by the same name."""

    def reducer_override(self, thing: Any) -> Any:
        """An array by its shape, type, memory, offset, strides and order; everything else as usual."""
        if not isinstance(thing, np.ndarray):
            return NotImplemented
        order = "F" if thing.flags.f_contiguous else "C"
        memory: Any = thing.T if order == "F" else thing  # 原样写出，不复制；numpy 2 自己的写法，numpy 1 读不了
        return np.ndarray, (thing.shape, thing.dtype.str, pickle.PickleBuffer(memory), 0, None, order)


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays of a pickled list or tuple, as they stand in the file; mapped where that is possible.

    This program's files, and others of protocols 0 to 4, written under numpy 1 or 2; float32 or float64.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DamagedError
        If the file is truncated, goes on after the pickle, or holds anything else than two such arrays.
    UserError
        If the pickle asks for anything to be called that makes no array: no damage makes that of an array, and
        nothing replaces such a file unasked.
    """
    with open(path, "rb") as file:
        try:
            found = _read(path, file)
            if not all(array.dtype.kind == "f" and array.dtype.itemsize in (4, 8) for array in found):
                raise ValueError
        except (UserError, OSError):
            raise
        except Exception as problem:  # 内容不对时，哪一步、抛出什么都有可能
            reason = "it is truncated, or holds something else than two arrays of float32 or float64"
            raise damaged(path, reason) from problem
        if file.tell() != os.fstat(file.fileno()).st_size:
            raise damaged(path, "it goes on after its end")
    return found


def _read(path: Path, file: BufferedReader) -> tuple[np.ndarray, np.ndarray]:
    skimmed = _Skimmed(file)
    first, second = (skimmed.mapped(path, array) for array in _Arrays(path, skimmed).load())
    if skimmed.skipped:  # 有略过而认不出的内容：老老实实读
        file.seek(0)
        first, second = (np.asarray(array) for array in _Arrays(path, file).load())
    return first, second


class _Arrays(pickle.Unpickler):
    """Knows numpy's constructors of arrays and nothing else."""

    def __init__(self, path: Path, file: Any):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise UserError(
                f"{str(self._path)!r} is no file of this program (it asks for {f'{module}.{name}'[:100]!r}) "
                f"and is left alone; move it away, or {REMEDY}"
            )
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)  # numpy 2 的名字


class _Skimmed:
    """A file of which the unpickler gets everything but large contents: their memory stays untouched, and costs none.

    Attributes
    ----------
    skipped : dict
        ``{address in memory: place in the file}``.
    """

    def __init__(self, file: BufferedReader):
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self.skipped: dict[int, int] = {}
        self.read, self.readline = file.read, file.readline

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer, as the unpickler asks for bytes and bytearrays; a large one is passed over."""
        if len(buffer) < _LARGE:
            return self._file.readinto(buffer)
        start = self._file.tell()
        self.skipped[np.frombuffer(buffer, np.uint8).ctypes.data] = start
        return self._file.seek(min(start + len(buffer), self._size)) - start  # 到文件尾为止：短了就是截断的

    def mapped(self, path: Path, array: np.ndarray) -> np.ndarray:
        """The array, as a view of the file where its content was skipped; what is recognised leaves ``skipped``."""
        if array.ctypes.data not in self.skipped or not (array.flags.c_contiguous or array.flags.f_contiguous):
            return array
        start, is_c = self.skipped.pop(array.ctypes.data), array.flags.c_contiguous
        return np.memmap(path, array.dtype, "r", start, array.shape, "C" if is_c else "F")
