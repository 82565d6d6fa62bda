"""The Mahalanobis distance of patches to their position's Gaussian, also as if their image had been left out of it.

各位置的图块到其高斯的马氏距离（论文 III.C，公式 2）；训练图像到其余图像的高斯的距离（留一）。

References
----------
Defard et al., arXiv 2011.08785, section III.C: equation 2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from padim import EPSILON
from padim.chunks import by_chunks, mirror
from system.errors import UserError

_SMALL = 0.01  # 1 − k·a 小于此，a 的舍入就要紧了


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

    def left_out(self, block: Tensor, count: int, before: Callable[[], None] = lambda: None) -> Tensor:
        """Distances (P, m) of training embeddings (P, m, d), each to the Gaussians of all other training images.

        Parameters
        ----------
        block : Tensor, (P, m, d) float32
            Of images that the Gaussians were fitted to.
        count : int
            n, how many those were; at least three.
        before : callable
            As for `distances`.

        Raises
        ------
        UserError
            As by `distances`.

        Notes
        -----
        Without image i the mean moves by −δ/(n − 1), δ = xᵢ − μ, and the scatter S loses n/(n − 1)·δδᵀ. The covariance
        of the others is therefore A − k·δδᵀ with A = S/(n − 2) + εI and k = n/((n − 1)(n − 2)), and by Sherman and
        Morrison, with a = δᵀA⁻¹δ,

            dᵢ = n/(n − 1) · √( a / (1 − k·a) ).

        One factor of A a position serves all images. Where 1 − k·a is small, a rounding of a weighs much: there it is
        corrected once, a = 2δᵀx − xᵀAx in float64 with x = A⁻¹δ from the factor, which is never above the true a.
        """
        scale = (count - 1) / (count - 2)  # A = scale·(Σ − εI) + εI
        self._factorise(scale, before)
        k = count / ((count - 1) * (count - 2))  # 其余图像的协方差是 A − k·δδᵀ
        distances = block.new_empty(block.shape[:2])

        def solve(here: slice) -> None:
            exact = block[here] - self._exact_mean[here, None]  # δ：(c, m, d)
            deviations = exact.to(block.dtype).mT  # (c, d, m)
            whitened = torch.linalg.solve_triangular(self._memory[here], deviations, upper=False)  # (c, d, m)
            a = whitened.double().square().sum(1)  # (c, m)
            if (1 - k * a < _SMALL).any():
                factor = self._memory[here].mT
                x = torch.linalg.solve_triangular(factor, whitened, upper=True).double()  # A⁻¹δ：(c, d, m)
                both = 2 * exact.double().mT - self._scaled(here, scale) @ x  # 2δ − Ax：(c, d, m)
                a = torch.where(1 - k * a < _SMALL, (x * both).sum(1), a)  # a = xᵀ(2δ − Ax)
            # A − kδδᵀ 不小于 εI，故距离不大于 ‖δ‖/√ε：舍入至多到此
            least = EPSILON * a / exact.double().square().sum(2)
            left = a / torch.maximum(1 - k * a, least)
            distances[here] = torch.where(a > 0, left, 0).sqrt_().mul_(count / (count - 1))  # dᵢ：(c, m)

        by_chunks(solve, len(self.mean), self.mean.shape[1], block.device)
        return distances

    def _factorise(self, scale: float, before: Callable[[], None]) -> None:
        """Have the factors of scale·(Σ − εI) + εI in the lower triangles."""
        if self._factored != scale:
            before()  # 还有谁在读协方差，先等它读完
            covariance = self.covariance()
            self._diagonal = covariance.diagonal(dim1=1, dim2=2).clone()  # 因子要占用对角线
            factorise(covariance, scale)
            self._factored = scale

    def _scaled(self, here: slice, scale: float) -> Tensor:
        """scale·(Σ − εI) + εI (c, d, d) float64, from the upper triangles and the diagonal."""
        assert self._diagonal is not None  # 有因子时才用
        upper = self._memory[here].double().triu_(1)
        matrix = upper + upper.mT
        matrix.diagonal(dim1=1, dim2=2).copy_(self._diagonal[here])
        return _rescale(matrix, scale)


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
