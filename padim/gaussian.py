"""One multivariate Gaussian for every patch position, and the distance to it.

References
----------
Defard et al., arXiv 2011.08785, section III.B: equation 1 (mean and regularised covariance) and
equation 2 (Mahalanobis distance).
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

EPSILON = 0.01  # 公式 1 的正则项 εI
_STRIP = 128  # 散布矩阵一次更新的行数


def _by_chunks(work: Callable[[slice], None], positions: int, device: torch.device) -> None:
    """Call ``work`` for successive slices of positions, halved when a GPU's memory does not suffice."""
    # CPU 上一次只取少数位置，中间结果留在缓存里；GPU 上要大到能占满它
    size, start = 32 if device.type == "cpu" else 512, 0
    while start < positions:
        here = slice(start, min(start + size, positions))
        try:
            work(here)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            warnings.warn("GPU memory is short: going on with fewer positions at a time", stacklevel=3)
        else:
            start = here.stop


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uninitialised float32; on the CPU from numpy, which asks the system for huge pages."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)


class NotPositiveDefiniteError(ValueError):
    """A covariance without Cholesky factor: its features were not finite, or far out of scale."""


class GaussianStream:
    """Mean and covariance of every position from blocks of embeddings, in constant memory.

    Attributes
    ----------
    count : int
        Images seen.
    mean : Tensor, (P, d) float64
    scatter : Tensor, (P, d, d) float32
        Sum of the outer products of the deviations from ``mean``; of this symmetric matrix only
        the lower triangle is kept up to date, in strips of rows.

    Notes
    -----
    A block B of m images with mean b is merged into n images with mean a by

        S ← S + Σ (x − b)(x − b)ᵀ + nm/(n + m) (b − a)(b − a)ᵀ

    (Chan, Golub, LeVeque 1983), which never subtracts large numbers of one size. Both terms are
    one rank-(m + 1) product, so that an update passes over the scatter once.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def update(self, block: Tensor) -> None:
        """Merge ``block`` (P, m, d) float32, the embeddings of m images."""
        positions, m, d = block.shape
        n = self.count
        if n == 0:
            self.mean = block.new_zeros((positions, d), dtype=torch.float64)
            self.scatter = _empty((positions, d, d), block.device)

        def merge(here: slice) -> None:
            x = block[here]
            average = x.mean(1)  # (c, d)
            shift = average - self.mean[here]
            deviations = x.new_empty((len(x), m + 1, d))
            torch.sub(x, average[:, None], out=deviations[:, :m])
            deviations[:, m] = shift * (n * m / (n + m)) ** 0.5
            try:
                for row in range(0, d, _STRIP):  # 对称：只算下三角，省去四成乘法
                    rows, columns = slice(row, row + _STRIP), slice(0, row + _STRIP)
                    # beta = 0 时不读旧值：第一块无需先清零
                    self.scatter[here, rows, columns].baddbmm_(
                        deviations[..., rows].mT, deviations[..., columns], beta=int(n > 0)
                    )
            except torch.OutOfMemoryError as problem:  # 加了一半，不可重来
                raise MemoryError("out of GPU memory within an update") from problem
            self.mean[here] += shift * (m / (n + m))

        _by_chunks(merge, positions, block.device)
        self.count += m

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean (P, d) and covariance (P, d, d) float32, the latter in the scatter's memory.

        Raises
        ------
        ValueError
            For fewer than two images: the unbiased covariance divides by n − 1.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two images, not {self.count}")
        covariance = self.scatter

        def complete(here: slice) -> None:
            chunk = covariance[here].div_(self.count - 1)
            for row in range(0, chunk.shape[1], _STRIP):  # 补上三角
                rows, rest = slice(row, row + _STRIP), slice(row + _STRIP, None)
                chunk[:, rows, rest] = chunk[:, rest, rows].mT
            chunk.diagonal(dim1=1, dim2=2).add_(EPSILON)  # 公式 1：+ εI

        _by_chunks(complete, len(covariance), covariance.device)
        self.scatter = None
        return self.mean.float(), covariance


def factorise(covariance: Tensor) -> Tensor:
    """Lower Cholesky factors (P, d, d), in the covariance's own memory, chunk by chunk.

    Raises
    ------
    NotPositiveDefiniteError
        The message names the first such position.
    """

    @torch.inference_mode()  # 推理模式只对本线程有效
    def one(here: slice) -> None:
        factor, info = torch.linalg.cholesky_ex(covariance[here])
        if info.any():
            position = here.start + int(info.ne(0).nonzero()[0])
            raise NotPositiveDefiniteError(f"the covariance at position {position} is not positive definite")
        covariance[here] = factor

    positions, threads = len(covariance), torch.get_num_threads()
    if covariance.device.type != "cpu":
        _by_chunks(one, positions, covariance.device)
        return covariance
    # CPU 的成批分解逐个矩阵进行，矩阵太小，分不了线程：改为每个线程分解自己的一段
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(one, (slice(i, min(i + 32, positions)) for i in range(0, positions, 32))):
            pass
    return covariance


def mahalanobis(block: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Mahalanobis distances of embeddings to their position's Gaussian.

    Parameters
    ----------
    block : Tensor, (P, m, d) float32
    mean : Tensor, (P, d) float32
    factor : Tensor, (P, d, d) float32
        From `factorise`.

    Returns
    -------
    Tensor, (P, m) float32

    Notes
    -----
    With Σ = LLᵀ, equation 2 is ‖L⁻¹(x − μ)‖: one triangular solve, and no inverse of Σ.
    """
    distances = block.new_empty(block.shape[:2])

    def solve(here: slice) -> None:
        deviations = block[here] - mean[here, None]  # (c, m, d)
        whitened = torch.linalg.solve_triangular(factor[here], deviations.mT, upper=False)  # (c, d, m)
        torch.linalg.vector_norm(whitened, dim=1, out=distances[here])

    _by_chunks(solve, len(block), block.device)
    return distances
