"""The Mahalanobis distance of patches to their position's Gaussian.

各位置的图像块到其高斯的马氏距离（论文 III.C，公式 2）。

References
----------
Defard et al., arXiv 2011.08785, section III.C: equation 2.
"""

import torch
from torch import Tensor

from padim.chunks import by_chunks, mirror
from system.errors import UserError


class Gaussians:
    """The fitted Gaussians of all positions; covariances and Cholesky factors share one memory.

    Parameters
    ----------
    mean : Tensor, (P, d) float32
    covariance : Tensor, (P, d, d) float32
        Symmetric. It becomes this object's own: the factors are written into its lower triangles.

    Attributes
    ----------
    is_factorised : bool
        Whether the factors are there.

    Notes
    -----
    The factors are made by the first call of `distances`, chunk by chunk. The covariances stay in the strict upper
    triangles, their diagonal beside, so that nothing is lost when that is interrupted, and `covariance` has them
    back bit for bit.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        self.mean, self._memory = mean, covariance
        self._diagonal: Tensor | None = None  # (P, d)，下三角里不再全是协方差时
        self.is_factorised = False

    @torch.inference_mode()
    def covariance(self) -> Tensor:
        """The covariances (P, d, d): this object's memory, with the factors replaced if they are there."""
        if self._diagonal is not None:
            self.is_factorised = False
            diagonal = self._diagonal

            def restore(here: slice) -> None:
                chunk = self._memory[here]
                mirror(chunk, upper=False)
                chunk.diagonal(dim1=1, dim2=2).copy_(diagonal[here])

            by_chunks(restore, len(diagonal), diagonal.shape[1], diagonal.device)
            self._diagonal = None
        return self._memory

    def distances(self, block: Tensor) -> Tensor:
        """Mahalanobis distances (P, m) float32 of embeddings (P, m, d) float32 to their position's Gaussian.

        Raises
        ------
        UserError
            If a covariance has no Cholesky factor; the message names the first such position.
        """
        if not self.is_factorised:
            covariance = self.covariance()
            self._diagonal = covariance.diagonal(dim1=1, dim2=2).clone()
            factorise(covariance)
            self.is_factorised = True
        return mahalanobis(block, self.mean, self._memory)


def factorise(covariance: Tensor) -> None:
    """Write the Cholesky factors of covariances (P, d, d) into their lower triangles, chunk by chunk.

    Raises
    ------
    UserError
        If a covariance is not positive definite; the message names the first such position.
    """
    lower = torch.ones(covariance.shape[1:], dtype=torch.bool, device=covariance.device).tril()

    def one(here: slice) -> None:
        chunk = covariance[here]
        factor, info = torch.linalg.cholesky_ex(chunk)
        if info.any():
            position = here.start + int(info.ne(0).nonzero()[0])
            raise UserError(
                f"the covariance at position {position} is not positive definite: its features are far out of scale "
                "for float32; try other --weights, or a smaller --rd"
            )
        torch.where(lower, factor, chunk, out=chunk)  # 只此一步改变内存，之后不会再失败

    by_chunks(one, len(covariance), len(lower), covariance.device)


def mahalanobis(block: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Mahalanobis distances of embeddings to their position's Gaussian.

    Parameters
    ----------
    block : Tensor, (P, m, d) float32
    mean : Tensor, (P, d) float32
    factor : Tensor, (P, d, d) float32
        From `factorise`; only its lower triangles are read.

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

    by_chunks(solve, len(mean), mean.shape[1], block.device)
    return distances
