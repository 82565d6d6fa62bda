"""The Mahalanobis distance of patches to their position's Gaussian, also as if their images had been left out of it.

各位置的图块到其高斯的马氏距离（论文 III.C，公式 2）；训练图像到组外图像的高斯的距离（留一组，一组也可以只有一张）。

References
----------
Defard et al., arXiv 2011.08785, section III.C: equation 2.
"""

from collections.abc import Callable
from math import isqrt, sqrt

import torch
from torch import Tensor

from padim import EPSILON
from padim.chunks import by_chunks, mirror
from padim.left_out import spread, squares_without
from system.errors import UserError


class Gaussians:
    """The fitted Gaussians of all positions; covariances and Cholesky factors share one memory.

    Parameters
    ----------
    mean : Tensor, (P, d) float32 or float64
    covariance : Tensor, (P, d, d) float32
        Symmetric. It becomes this object's own: the factors are written into its lower triangles.

    Notes
    -----
    The factors are made by the first call of `distances` or `left_out`, chunk by chunk. The covariances stay in the
    strict upper triangles, their diagonal beside, so that nothing is lost when that is interrupted, and `covariance`
    has them back bit for bit.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        self._exact_mean, self.mean, self._memory = mean, mean.to(covariance.dtype), covariance
        self._diagonal: Tensor | None = None  # (P, d)，下三角里不再全是协方差时
        self._factored: float | None = None  # 已有因子的，是哪个倍数的散布

    @torch.inference_mode()
    def covariance(self) -> Tensor:
        """The covariances (P, d, d): this object's memory, with the factors replaced if they are there."""
        if self._diagonal is not None:
            self._factored = None
            diagonal = self._diagonal

            def restore(here: slice) -> None:
                chunk = self._memory[here]
                mirror(chunk, upper=False)  # 下三角由上三角补回
                chunk.diagonal(dim1=1, dim2=2).copy_(diagonal[here])

            by_chunks(restore, len(diagonal), diagonal.shape[1], diagonal.device)
            self._diagonal = None
        return self._memory

    def distances(self, block: Tensor, before: Callable[[], None] = lambda: None) -> Tensor:
        """Mahalanobis distances (P, m) float32 of embeddings (P, m, d) float32 to their position's Gaussian.

        Parameters
        ----------
        block : Tensor, (P, m, d) float32
        before : callable
            Called before factors are written into the memory.

        Raises
        ------
        UserError
            If a covariance has no Cholesky factor; the message names the first such position.
        """
        self._factorise(1.0, before)
        return mahalanobis(block, self.mean, self._memory)  # 公式 2

    def left_out(
        self,
        block: Tensor,
        count: int,
        size: int = 1,
        before: Callable[[], None] = lambda: None,
        keeps_factors: bool = True,
    ) -> Tensor:
        """Distances (P, M) of training embeddings, each to the Gaussians of the images outside its own group.

        Parameters
        ----------
        block : Tensor, (P, M, d) float32
            Of images that the Gaussians were fitted to, group by group.
        count : int
            n, how many those were.
        size : int
            m, the images of every group of the block, at most n − 2; of one image each, every image is left out alone.
        before : callable
            As for `distances`.
        keeps_factors : bool
            Whether the factors are kept for further blocks, in the place of those that are there; else they are made
            for this block alone, and those that are there stay.

        Raises
        ------
        UserError
            As by `distances`.

        Notes
        -----
        Let Δ (d, m) be a group's deviations xᵢ − μ, and S the scatter. Without the group the mean moves by −Δ1/(n − m),
        so that the group deviates from it by ΔU, U = I + 11ᵀ/(n − m), and the scatter loses ΔUΔᵀ. The covariance of the
        others is therefore A − ΔUΔᵀ/(n − m − 1) with A = S/(n − m − 1) + εI. One factor of A a position serves all
        groups of a size, and each image costs one triangular solve, as it does in `distances`. What a group costs
        besides is a small system, by Woodbury (`padim.left_out`).

        Where the covariance of the others may be close to singular (n − m ≤ d, or m > n/3) or shows to be so, by small
        pivots, float32 factors are not exact enough: there all is done in float64.
        """
        d, last = block.shape[2], count - size - 1
        scale = (count - 1) / last  # A = scale·(Σ − εI) + εI
        is_doubtful = count - size <= d or 3 * size > count
        if keeps_factors and not is_doubtful:
            self._factorise(scale, before)
        distances = block.new_empty(block.shape[:2])
        share = (sqrt(count / (count - size)) - 1) / size  # U = C²，C = I + share·11ᵀ

        def solve(here: slice) -> None:
            deviations = (block[here] - self._exact_mean[here, None]).double().unflatten(1, (-1, size))  # (c, g, m, d)
            removed = spread(deviations, share, 2)  # (ΔC)ᵀ
            squares = deviations.new_zeros(deviations.shape[:3])  # (c, g, m)
            unsure = torch.ones(len(squares), dtype=torch.bool, device=block.device)
            if not is_doubtful:
                factor = self._memory[here] if keeps_factors else self._factor(here, scale, block.dtype)
                squares, unsure = squares_without(factor, removed, share, last)
            if unsure.any():
                factor = self._factor(here, scale, torch.float64)[unsure]
                squares[unsure], _ = squares_without(factor, removed[unsure], share, last)
            # 其余图像的协方差不小于 εI，故距离不大于 ‖ΔU‖/√ε：舍入至多到此
            most = spread(removed, share, 2).square().sum(3) / EPSILON
            distances[here] = torch.where(squares <= most, squares, most).sqrt_().flatten(1)

        # 一段位置的中间结果，是 (c, d, d) 或 (c, M, d)
        by_chunks(solve, len(self.mean), max(d, isqrt(d * block.shape[1])), block.device)
        return distances

    def _factorise(self, scale: float, before: Callable[[], None]) -> None:
        """Have the factors of scale·(Σ − εI) + εI in the lower triangles."""
        if self._factored != scale:
            before()  # 还有谁在读协方差，先等它读完
            covariance = self.covariance()
            self._diagonal = covariance.diagonal(dim1=1, dim2=2).clone()  # 因子要占用对角线
            factorise(covariance, scale)
            self._factored = scale

    def _factor(self, here: slice, scale: float, dtype: torch.dtype) -> Tensor:
        """The factors (c, d, d) of scale·(Σ − εI) + εI, from the upper triangles and the diagonal."""
        upper = self._memory[here].triu(1).to(dtype)
        matrix = upper + upper.mT
        diagonal = self._memory.diagonal(dim1=1, dim2=2) if self._diagonal is None else self._diagonal
        matrix.diagonal(dim1=1, dim2=2).copy_(diagonal[here])
        return _cholesky(_rescale(matrix, scale), here.start)


def _rescale(covariance: Tensor, scale: float) -> Tensor:
    """scale·(Σ − εI) + εI of covariances (c, d, d)."""
    matrix = covariance * scale
    matrix.diagonal(dim1=1, dim2=2).add_(EPSILON * (1 - scale))
    return matrix


def factorise(covariance: Tensor, scale: float = 1.0) -> None:
    """Write Cholesky factors into the lower triangles of covariances (P, d, d), chunk by chunk.

    Parameters
    ----------
    covariance : Tensor, (P, d, d)
        Σ, whose strict upper triangles stay as they are.
    scale : float
        The factors are those of scale·(Σ − εI) + εI.

    Raises
    ------
    UserError
        If a matrix is not positive definite; the message names the first such position.
    """
    lower = torch.ones(covariance.shape[1:], dtype=torch.bool, device=covariance.device).tril()

    def one(here: slice) -> None:
        chunk = covariance[here]
        factor = _cholesky(chunk if scale == 1 else _rescale(chunk, scale), here.start)  # Σ = LLᵀ
        torch.where(lower, factor, chunk, out=chunk)  # 只此一步改变内存，之后不会再失败

    by_chunks(one, len(covariance), len(lower), covariance.device)


@torch.inference_mode()
def invert_factors(covariance: Tensor, order: Tensor) -> None:
    """Replace covariances (P, d, d) by the inverses of their Cholesky factors, chunk by chunk, by way of float64.

    Parameters
    ----------
    covariance : Tensor, (P, d, d) float32
        Σ = LLᵀ; L⁻¹ when this returns, zero above the diagonal.
    order : Tensor, (d,) int64
        The order of the channels in which the factors are taken.

    Raises
    ------
    UserError
        If a matrix is not positive definite; the message names the first such position.
    """
    identity = torch.eye(len(order), dtype=torch.float64, device=covariance.device)

    def one(here: slice) -> None:
        factor = _cholesky(covariance[here].double()[:, order[:, None], order], here.start)  # (c, d, d)
        covariance[here] = torch.linalg.solve_triangular(factor, identity, upper=False)

    by_chunks(one, len(covariance), len(order), covariance.device)


def _cholesky(matrices: Tensor, start: int) -> Tensor:
    """Factors (c, d, d) of the matrices of the positions from ``start`` on."""
    factor, info = torch.linalg.cholesky_ex(matrices)
    if info.any():
        position = start + int(info.ne(0).nonzero()[0])
        raise UserError(
            f"the covariance at position {position} is not positive definite: its features are far out of scale "
            "for float32; fit with other --weights, or a smaller --rd"
        )
    return factor


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
        # 公式 2：Σ = LLᵀ，故距离是 ‖L⁻¹(x − μ)‖；解三角方程组，比求逆快，也更准
        whitened = torch.linalg.solve_triangular(factor[here], deviations.mT, upper=False)  # (c, d, m)
        torch.linalg.vector_norm(whitened, dim=1, out=distances[here])  # (c, m)

    by_chunks(solve, len(mean), mean.shape[1], block.device)
    return distances
