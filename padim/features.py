"""The numbers of a pickled ``[mean, cov]``: checked, read, mapped or written. Imports no torch.

Files keep the order of the thesis, mean (d, P) and covariance (d, d, P); in memory both are position-major.
"""

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from threading import Event

import numpy as np

from padim.direct import Writer
from padim.unpickle import StoredArray, UnpickleError, locate

SYMMETRY = 1e-5  # 相对于一个位置的最大元素
_STRIP = 128  # 检查对称时一次比较的行数
_SLICE = 1 << 24  # 一次解码的字节数


class AbortedError(Exception):
    """Writing was given up because it was asked to stop."""


@dataclass(frozen=True)
class Progress:
    """Between who writes and who waits.

    Attributes
    ----------
    stop : threading.Event
        Once it is set, writing ends with an `AbortedError`.
    dumped : threading.Event
        Set as soon as the arrays are no longer needed.
    """

    stop: Event = field(default_factory=Event)
    dumped: Event = field(default_factory=Event)

    def go_on(self) -> None:
        if self.stop.is_set():
            raise AbortedError


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised float32 that begins at a multiple of 64 bytes.

    Numpy, unlike torch, asks the system for huge pages, but aligns to 16 bytes only; and the last bit
    of a matrix product may depend on the alignment.
    """
    count = 4 * prod(shape)
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(np.float32).reshape(shape)


def load(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d) and covariance (P, d, d), float32, in memory and writable.

    Raises
    ------
    padim.unpickle.UnpickleError
        If the file is damaged, or holds other arrays or anything else; if a number is not finite, or a
        covariance is not symmetric or its diagonal not positive.
    """
    mean_there, there = _arrays(path, positions, dimensions)
    _check_mean(mean_there)
    mean = np.ascontiguousarray(mean_there.T, np.float32)
    covariance = empty((positions, dimensions, dimensions))

    def copy(here: slice) -> None:
        with np.errstate(over="ignore"):  # float64 → float32 的溢出由检查报告
            covariance[here] = there.T[here]
        check_covariances(covariance[here], here.start)

    _in_threads(copy, positions, dimensions)
    return mean, covariance


def mapped(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d), checked, and covariance (P, d, d), float32: views of the file where it allows that.

    The covariances are checked by whoever reads one, with `check_covariances`: a pickle of 3.8 GB is
    not read to look at 1.2 MB of it.

    Raises
    ------
    padim.unpickle.UnpickleError
        As `load`, but for the covariances' values.
    """
    mean, covariance = _arrays(path, positions, dimensions)
    _check_mean(mean)
    if not (mean.dtype == covariance.dtype == np.float32 and covariance.flags.f_contiguous):
        return load(path, positions, dimensions)
    return mean.T, covariance.T


def dump(mean: np.ndarray, covariance: np.ndarray, path: Path, progress: Progress) -> None:
    """Pickle position-major arrays into the new file ``path``, in the order of the thesis.

    Parameters
    ----------
    mean : ndarray, (P, d) float32
    covariance : ndarray, (P, d, d) float32
        Symmetric, so that its transpose is the (d, d, P) array in Fortran order: protocol 5 writes
        the memory as it stands, without a copy.
    path : Path
    progress : Progress
    """
    with Writer(path, progress.go_on) as file:
        pickle.dump([np.ascontiguousarray(mean.T), covariance.T], file, protocol=5)
        file.finish()
        progress.dumped.set()
        file.sync()


def check_covariances(covariances: np.ndarray, first: int = 0) -> None:
    """Raise UnpickleError unless these (n, d, d) are finite, symmetric, and positive on the diagonal.

    ``first`` is the position of the first one, for the message.
    """
    for position, matrix in enumerate(covariances, first):
        diagonal = np.diagonal(matrix)
        largest = max(float(matrix.max()), -float(matrix.min()))  # NaN 会传到结果里
        if not np.isfinite(largest) or not np.isfinite(diagonal).all():
            raise UnpickleError(f"its covariance at position {position} is not finite")
        if diagonal.min() <= 0:
            raise UnpickleError(f"its covariance at position {position} has a diagonal that is not positive")
        for row in range(0, len(matrix), _STRIP):  # 上三角与下三角，各只读一遍
            rows, columns = slice(row, row + _STRIP), slice(0, row + _STRIP)
            if np.abs(matrix[rows, columns] - matrix[columns, rows].T).max() > SYMMETRY * largest:
                raise UnpickleError(f"its covariance at position {position} is not symmetric")


def _check_mean(mean: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        if not np.isfinite(mean.astype(np.float32, copy=False)).all():
            raise UnpickleError("its mean is not finite")


def _arrays(path: Path, positions: int, dimensions: int) -> list[np.ndarray]:
    """Both arrays as they stand in the file, if they have these shapes."""
    stored = locate(path)
    wanted = [(dimensions, positions), (dimensions, dimensions, positions)]
    if [array.shape for array in stored] != wanted:
        shapes = " and ".join(str(array.shape) for array in stored)
        raise UnpickleError(f"it holds arrays of shape {shapes}, not {wanted[0]} and {wanted[1]}")
    return [_view(path, array) for array in stored]


def _view(path: Path, array: StoredArray) -> np.ndarray:
    raw = _decoded(path, array) if array.as_text else np.memmap(path, np.uint8, "r", array.start, array.size)
    return np.ndarray(array.shape, array.dtype, raw.data, order=array.order)


def _decoded(path: Path, array: StoredArray) -> np.ndarray:
    """The bytes that protocol 2 wrote as text."""
    raw = np.empty(prod(array.shape) * array.dtype.itemsize, np.uint8)
    filled, rest, left = 0, b"", array.size
    with open(path, "rb") as file:
        file.seek(array.start)
        while left:
            chunk = file.read(min(left, _SLICE))
            left -= len(chunk)
            data = rest + chunk
            cut = len(data) - (left > 0 and data[-1:] >= b"\xc0")  # 字符至多两字节：不从中间切开
            data, rest = data[:cut], data[cut:]
            try:
                part = np.frombuffer(data.decode().encode("latin-1"), np.uint8)
            except UnicodeError as problem:
                raise UnpickleError("its text stands for no bytes") from problem
            if not chunk or filled + len(part) > len(raw):
                break
            raw[filled : filled + len(part)] = part
            filled += len(part)
    if left or filled != len(raw):
        raise UnpickleError("an array has another size than its shape says")
    return raw


def _in_threads(work: Callable[[slice], None], positions: int, dimensions: int) -> None:
    """Call ``work`` for slices of positions, a few MB each; raises what the first failing one raised."""
    size = max(1, (1 << 22) // (4 * dimensions * dimensions))
    slices = [slice(i, min(i + size, positions)) for i in range(0, positions, size)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # numpy 在解释器锁之外拷贝与比较
        for _ in pool.map(work, slices):
            pass
