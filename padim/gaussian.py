"""One multivariate Gaussian for every patch position, and the distance to it.

References
----------
Defard et al., arXiv 2011.08785, section III.B: equation 1 (mean and regularised covariance) and
equation 2 (Mahalanobis distance).
"""

import torch
from torch import Tensor

EPSILON = 0.01  # 公式 1 的正则项 εI
_CHUNK = 32  # 一次处理的位置数：中间结果留在缓存里


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
        Sum of the outer products of the deviations from ``mean``.

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
            self.scatter = block.new_empty((positions, d, d))
        for start in range(0, positions, _CHUNK):
            here = slice(start, start + _CHUNK)
            x = block[here]
            average = x.mean(1)  # (c, d)
            shift = average - self.mean[here]
            deviations = x.new_empty((len(x), m + 1, d))
            torch.sub(x, average[:, None], out=deviations[:, :m])
            deviations[:, m] = shift * (n * m / (n + m)) ** 0.5
            # beta = 0 时不读旧值：第一块无需先清零
            self.scatter[here].baddbmm_(deviations.mT, deviations, beta=int(n > 0))
            self.mean[here] += shift * (m / (n + m))
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
        for start in range(0, len(covariance), _CHUNK):
            chunk = covariance[start : start + _CHUNK].div_(self.count - 1)
            chunk.diagonal(dim1=1, dim2=2).add_(EPSILON)  # 公式 1：+ εI
        self.scatter = None
        return self.mean.float(), covariance


def factorise(covariance: Tensor) -> Tensor:
    """Lower Cholesky factors (P, d, d), in the covariance's own memory, chunk by chunk.

    Raises
    ------
    NotPositiveDefiniteError
        The message names the first such position.
    """
    for start in range(0, len(covariance), _CHUNK):
        chunk = covariance[start : start + _CHUNK]
        factor, info = torch.linalg.cholesky_ex(chunk)
        if info.any():
            position = start + int(info.ne(0).nonzero()[0])
            raise NotPositiveDefiniteError(f"the covariance at position {position} is not positive definite")
        chunk.copy_(factor)
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
    for start in range(0, len(block), _CHUNK):
        here = slice(start, start + _CHUNK)
        deviations = block[here] - mean[here, None]  # (c, m, d)
        whitened = torch.linalg.solve_triangular(factor[here], deviations.mT, upper=False)  # (c, d, m)
        torch.linalg.vector_norm(whitened, dim=1, out=distances[here])
    return distances
