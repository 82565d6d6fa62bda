"""A fitted class as a pickle ``[mean, cov]`` with a JSON beside it: write and read. Imports no torch.

拟合好的一类：pickle ``[mean, cov]`` 与旁边的 JSON；写与读。

Files keep the order of the thesis, mean (d, P) and covariance (d, d, P); in memory both are position-major.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from experiment.files.arrays import UnreadableError, parse_arrays
from experiment.files.unpickle import DamagedError, Pickler, damaged, read_arrays
from system.direct import Writer
from system.files import Staged, forget, write_json
from system.resources import aligned, cores

SYMMETRY = 1e-5  # 相对于一个位置的最大元素
_HEADER = 4096  # 一个 .npy 文件头的字节数，只多不少
_STRIP = 128  # 检查对称时一次比较的行数


class AbortedError(Exception):
    """Writing was given up because it was asked to stop."""


@dataclass(frozen=True)
class Progress:
    """What a writer and whoever waits for it tell each other.

    Attributes
    ----------
    stop : threading.Event
        Once it is set, writing ends with an `AbortedError`.
    dumped : threading.Event
        Set as soon as the model's own memory is no longer read.
    """

    stop: Event = field(default_factory=Event)
    dumped: Event = field(default_factory=Event)

    def go_on(self) -> None:
        """Raise `AbortedError` once ``stop`` is set."""
        if self.stop.is_set():
            raise AbortedError


def components_path(path: Path) -> Path:
    """Where the projection that belongs to the pickle ``path`` is kept."""
    return path.with_name(f"{path.stem}_components.npy")


def write_fitted(
    path: Path,
    mean: np.ndarray,
    covariance: np.ndarray,
    record: dict[str, Any],
    components: np.ndarray | None = None,
    progress: Progress | None = None,
    staged: Staged | None = None,
) -> dict[str, Any]:
    """Pickle ``[mean, cov]`` in the thesis's order, and write its JSON beside it.

    Parameters
    ----------
    path : Path
        ``….pkl``; the JSON gets the same name with ``.json``.
    mean : ndarray, (P, d) float32
    covariance : ndarray, (P, d, d) float32
        Symmetric, so that its transpose is the (d, d, P) array in Fortran order: protocol 5 writes
        the memory as it stands, without a copy.
    record : dict
        What the Gaussians were made from.
    components : ndarray, (d, t_d) float32, optional
        The projection onto principal components, for ``train_{class}_components.npy``.
    progress : Progress, optional
    staged : Staged, optional
        Gets the files, but for the JSON, which must be added to it.

    Returns
    -------
    dict
        The JSON: the record with its ``pickle_bytes``.

    Raises
    ------
    AbortedError, OSError
        If ``progress.stop`` was set, or a file cannot be written; the files that were there are unchanged.
    """
    progress = progress or Progress()
    with Staged() if staged is None else nullcontext(staged) as files:
        if components is None:
            files.remove(components_path(path))
        else:
            with files.writing(components_path(path)) as temporary, open(temporary, "wb") as file:
                np.save(file, components)
        # Its record is renamed before it: 在场的 pickle 总有与它相配的记录。自己已落盘，不必再落一次
        with files.writing(path, vouches=True, sync=False) as temporary:
            with Writer(temporary, progress.go_on) as file:
                Pickler(file, protocol=5).dump([np.ascontiguousarray(mean.T), covariance.T])
                file.finish()
                progress.dumped.set()
                file.sync()
            content = record | {"pickle_bytes": temporary.stat().st_size}
        if staged is None:
            write_json(path.with_suffix(".json"), content, files)
    return content


def read_fitted(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d) and covariance (P, d, d), float32, in memory and writable; the covariance 64-byte aligned.

    Files of other programs are read too: protocols 0 to 4, numpy 1 and 2, float32 and float64 of either
    byte order, any order of the axes in memory.

    Parameters
    ----------
    path : Path
    positions, dimensions : int
        P and d.

    Raises
    ------
    DamagedError
        If the file is truncated or holds anything else than arrays of these shapes; if a number is not
        finite, or a covariance is not symmetric or its diagonal not positive.
    UserError
        If the pickle asks for anything to be called that makes no array.
    """
    mean_there, there = _arrays(path, positions, dimensions)
    _check_mean(path, mean_there)
    mean = np.ascontiguousarray(mean_there.T, np.float32)
    covariance = aligned((positions, dimensions, dimensions))
    step = max(1, (1 << 22) // covariance[0].nbytes)

    def copy(start: int) -> None:
        here = slice(start, start + step)
        with np.errstate(over="ignore", invalid="ignore"):  # float64 → float32 的溢出由检查报告
            covariance[here] = there.T[here]
        check_covariances(path, covariance[here], start)
        if start // step % 32 == 31:
            forget(there)  # 读过的文件页不必都留在内存里

    with ThreadPoolExecutor(min(8, cores())) as pool:  # numpy 在解释器锁之外拷贝与比较
        for _ in pool.map(copy, range(0, positions, step)):
            pass
    return mean, covariance


def map_fitted(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d), checked, and covariance (P, d, d), float32: views of the file where it allows that.

    The covariances are checked by whoever looks at one, with `check_covariances`: a pickle of 3.8 GB is
    not read to look at 1.2 MB of it. Parameters and errors are those of `read_fitted`.
    """
    mean, covariance = _arrays(path, positions, dimensions)
    _check_mean(path, mean)
    if not (mean.dtype == covariance.dtype == np.float32 and covariance.flags.f_contiguous):
        return read_fitted(path, positions, dimensions)
    return np.asarray(mean.T), np.asarray(covariance.T)


def check_covariances(path: Path, covariances: np.ndarray, first: int = 0) -> None:
    """Check that matrices read from ``path`` can be covariances.

    Parameters
    ----------
    path : Path
        For the message.
    covariances : ndarray, (n, d, d) float32
    first : int
        The position of the first of them, for the message.

    Raises
    ------
    DamagedError
        If one is not finite, not symmetric, or its diagonal not positive.
    """
    for position, matrix in enumerate(covariances, first):
        where, diagonal = f"its covariance at position {position}", np.diagonal(matrix)
        largest = max(float(matrix.max()), -float(matrix.min()))  # NaN 会传到结果里
        if not np.isfinite(largest) or not np.isfinite(diagonal).all():
            raise damaged(path, f"{where} is not finite")
        if diagonal.min() <= 0:
            raise damaged(path, f"{where} has a diagonal that is not positive")
        for row in range(0, len(matrix), _STRIP):  # 上三角与下三角，各只读一遍
            rows, columns = slice(row, row + _STRIP), slice(0, row + _STRIP)
            if np.abs(matrix[rows, columns] - matrix[columns, rows].T).max() > SYMMETRY * largest:
                raise damaged(path, f"{where} is not symmetric")


def read_components(path: Path, dimensions: int, channels: int) -> np.ndarray:
    """The projection (d, t_d) float32 that belongs to the pickle ``path``.

    Raises
    ------
    DamagedError
        If it is not there, not of this shape (d and t_d are given) and type, or not finite.
    """
    beside = components_path(path)
    size = 4 * dimensions * channels
    try:
        whole = size < beside.stat().st_size < size + _HEADER  # 大得多的文件不必读
        components = parse_arrays(beside.read_bytes()) if whole else None
    except FileNotFoundError as problem:
        raise DamagedError(f"{str(beside)!r} is missing") from problem
    except UnreadableError as problem:
        raise DamagedError(f"{str(beside)!r} is damaged") from problem
    if (
        not isinstance(components, np.ndarray)
        or (components.dtype, components.shape) != (np.dtype(np.float32), (dimensions, channels))
        or not np.isfinite(components).all()
    ):
        raise DamagedError(f"{str(beside)!r} is no projection of {channels} channels onto {dimensions}")
    return components


def _check_mean(path: Path, mean: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(mean.astype(np.float32, copy=False)).all():
            raise damaged(path, "its mean is not finite")


def _arrays(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as they stand in the file, if they have these shapes."""
    arrays = read_arrays(path)
    shapes, wanted = [array.shape for array in arrays], [(dimensions, positions), (dimensions, dimensions, positions)]
    if shapes != wanted:
        raise damaged(
            path, f"it holds arrays of shape {' and '.join(map(str, shapes))}, not {wanted[0]} and {wanted[1]}"
        )
    return arrays
