"""Stored features as views of the file, so that one position's matrix costs no more than itself.

Imports no torch. A pickle of 3.8 GB is not read to look at 1.2 MB of it.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from padim.store import DamagedError, read_features

_BYTEARRAY8, _BINBYTES8 = b"\x96", b"\x8e"  # 协议 5 里大块内存的两种写法：操作码、八字节长度、原样的内容
_FRAME = 1 << 16  # 更小的块与指令同在一帧里；那样的文件整个读也快
_GAP = 4096  # 两块内存之间的 pickle 指令远短于此


def map_features(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d) and covariance (P, d, d), float32, views of the pickle ``path``.

    Parameters
    ----------
    path : Path
        What `padim.store.write_features` wrote.
    positions, dimensions : int
        P and d, from the JSON beside it.

    Raises
    ------
    padim.store.DamagedError
        If the file is truncated, or holds anything else than two such arrays.

    Notes
    -----
    The large buffers are cut out of the pickle, and what is left, a few hundred bytes, is read by
    an unpickler that runs nothing but the description of an array.
    """
    sizes = [4 * dimensions * positions, 4 * dimensions * dimensions * positions]
    if sizes[0] < _FRAME:
        return read_features(path, positions, dimensions)
    file = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    skeleton, starts, at = b"", [], 0
    for size in sizes:
        head = bytes(file[at : at + _GAP])
        length = size.to_bytes(8, "little")
        found = max(head.find(code + length) for code in (_BYTEARRAY8, _BINBYTES8))
        if found < 0 or at + found + 9 + size > len(file):
            raise DamagedError(f"{str(path)!r} is truncated or holds other arrays than its JSON says")
        skeleton += head[: found + 1] + bytes(8)  # 长度改为零
        starts.append(at + found + 9)
        at = starts[-1] + size
    arrays = _Skeleton(io.BytesIO(skeleton + bytes(file[at:]))).describe(path)
    shapes = [(dimensions, positions), (dimensions, dimensions, positions)]
    views = []
    for (dtype, shape, order), wanted, start, size in zip(arrays, shapes, starts, sizes, strict=True):
        if (dtype, shape) != (np.float32, wanted):
            raise DamagedError(f"{str(path)!r} holds arrays of shape {shape}, not {wanted}")
        views.append(np.ndarray(wanted, np.float32, file[start : start + size].data, order=order))
    return views[0].T, views[1].T


class _Skeleton(pickle.Unpickler):
    """Reads the pickle without its buffers: (dtype, shape, order) of each array."""

    def describe(self, path: Path) -> list[tuple[np.dtype, tuple[int, ...], str]]:
        try:
            mean, covariance = self.load()
            return [mean, covariance]
        except Exception as problem:  # 损坏的 pickle 能让解析器抛出任何类型
            raise DamagedError(f"{str(path)!r} is damaged ({' '.join(str(problem).split())[:100]})") from problem

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy._core.numeric", "_frombuffer"):
            return lambda buffer, dtype, shape, order: (dtype, shape, order)
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
