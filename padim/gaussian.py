"""One multivariate Gaussian for every patch position, and the distance to it.

References
----------
Defard et al., arXiv 2011.08785, section III.B: equation 1 (mean and regularised covariance) and
equation 2 (Mahalanobis distance).
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread

import torch
from torch import Tensor

from padim.features import empty

EPSILON = 0.01  # 公式 1 的正则项 εI
_STRIP = 128  # 散布矩阵一次更新的行数
_CHUNK = 1 << 20  # CPU 上一个线程一次取的协方差元素数
_MERGED = 1 << 23  # 与其他进程合并时，一次相加的协方差元素数
_TEMPORARY = 128  # 不动散布矩阵而求距离时，同时分解的位置数


def _lower_strips(d: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the strips that cover a (d, d) matrix's lower triangle."""
    for row in range(0, d, _STRIP):
        yield slice(row, row + _STRIP), slice(0, row + _STRIP)


def _by_chunks(work: Callable[[slice], None], positions: int, d: int, device: torch.device) -> None:
    """Call ``work`` for slices of positions, which together are all of them."""
    if device.type == "cpu":
        _in_threads(work, positions, d)
    else:
        _in_turn(work, positions, d)


def _in_threads(work: Callable[[slice], None], positions: int, d: int) -> None:
    # 单个矩阵太小，不值得分给多个线程：每个线程独自做几个位置，中间结果留在缓存里
    size = max(1, _CHUNK // d**2)
    chunks = [slice(i, min(i + size, positions)) for i in range(0, positions, size)]
    if len(chunks) == 1:
        work(chunks[0])
        return
    # 推理模式与线程数都只对本线程有效
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(torch.inference_mode()(work), chunks):
            pass


def _in_turn(work: Callable[[slice], None], positions: int, d: int) -> None:
    """On a GPU: one slice after the other, halved and tried again when memory does not suffice."""
    size, start = 512, 0
    while start < positions:
        here = slice(start, min(start + size, positions))
        try:
            work(here)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            warnings.warn("GPU memory is short: going on with fewer positions at a time", stacklevel=4)
        else:
            start = here.stop


@contextmanager
def _not_repeatable() -> Iterator[None]:
    """Changes in place: what memory is refused to here must not be tried again."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise MemoryError("out of memory amid a change of the covariances") from problem


class NotPositiveDefiniteError(ValueError):
    """A covariance without Cholesky factor: its features were not finite, or far out of scale."""


class FeatureError(ValueError):
    """Training features that are NaN, infinite, or too large to square in float32."""


class GaussianStream:
    """Mean and covariance of every position from blocks of embeddings, in constant memory.

    Parameters
    ----------
    positions, dimensions : int
        P and d.
    device : torch.device

    Attributes
    ----------
    count : int
        Images seen.
    mean : Tensor, (P, d) float64
    scatter : Tensor, (P, d, d) float32
        Sum of the outer products of the deviations from ``mean``; of this symmetric matrix only
        the lower triangle is kept up to date, in strips of rows.

    Raises
    ------
    ValueError
        By every method, once one of them that changes the sums was interrupted (by Ctrl-C, for want of memory): the
        sums may be incomplete.

    Notes
    -----
    A block B of m images with mean b is merged into n images with mean a by

        S ← S + Σ (x − b)(x − b)ᵀ + nm/(n + m) (b − a)(b − a)ᵀ

    (Chan, Golub, LeVeque 1983), which never subtracts large numbers of one size. Both terms are
    one rank-(m + 1) product, so that an update passes over the scatter once.
    """

    def __init__(self, positions: int, dimensions: int, device: torch.device):
        self.count = 0
        self._is_sound = True
        self.mean = torch.zeros((positions, dimensions), dtype=torch.float64, device=device)
        shape = (positions, dimensions, dimensions)
        if device.type == "cpu":
            # 几 GB 内存初次写入费时，在网络处理第一批图片时就开始
            scatter = empty(shape)
            self.scatter: Tensor | None = torch.from_numpy(scatter)
            self._zeroing = Thread(target=scatter.fill, args=(0,), daemon=True)
            self._zeroing.start()
        else:
            self.scatter, self._zeroing = torch.zeros(shape, device=device), None

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A change of the sums that is not whole before the block's end."""
        self._check_sound()
        if self._zeroing:
            self._zeroing.join()
        self._is_sound = False
        yield
        self._is_sound = True

    def _check_sound(self) -> None:
        if not self._is_sound:
            raise ValueError("the Gaussians are unusable: an update of them was interrupted; fit again")

    def update(self, block: Tensor) -> None:
        """Merge ``block`` (P, m, d) float32, the embeddings of m images."""
        positions, m, d = block.shape
        n = self.count

        def merge(here: slice) -> None:
            x = block[here]
            deviations = x.new_empty((len(x), m + 1, d))
            average = x.mean(1)  # (c, d)
            # 补正一次舍入：不变的特征，均值分毫不差，协方差恰为 εI
            average += torch.sub(x, average[:, None], out=deviations[:, :m]).mean(1)
            shift = average - self.mean[here]
            torch.sub(x, average[:, None], out=deviations[:, :m])
            deviations[:, m] = shift * (n * m / (n + m)) ** 0.5
            step = shift * (m / (n + m))
            with _not_repeatable():  # 需要内存的都在此之前
                for rows, columns in _lower_strips(d):  # 对称：只算下三角，省去四成乘法
                    self.scatter[here, rows, columns].baddbmm_(deviations[..., rows].mT, deviations[..., columns])
                self.mean[here] += step

        with self._changing():
            _by_chunks(merge, positions, d, block.device)
            self.count += m

    def merge(self, add: Callable[[Tensor], Tensor]) -> None:
        """Take in the streams of all ranks: afterwards each holds the Gaussians of all images.

        Parameters
        ----------
        add : callable
            Adds up a tensor over the ranks, in place.

        Notes
        -----
        n = Σ nᵣ and a = Σ nᵣaᵣ / n first; then, a few positions at a time, every rank moves its scatter to
        the common mean, and the sum is S = Σ (Sᵣ + nᵣ (aᵣ − a)(aᵣ − a)ᵀ). Of the symmetric matrices only the
        lower strips travel. Nothing large is subtracted from its like.
        """
        positions, d = self.mean.shape
        with self._changing():
            total = int(add(torch.tensor([self.count], dtype=torch.float64, device=self.mean.device)))
            common = add(self.mean * self.count).div_(max(total, 1))
            shift = ((self.mean - common) * self.count**0.5).float()[:, None]  # (P, 1, d)
            size = max(1, _MERGED // d**2)
            for start in range(0, positions, size):
                here = slice(start, start + size)
                for rows, columns in _lower_strips(d):
                    strip = self.scatter[here, rows, columns]
                    moved = torch.baddbmm(strip, shift[here, :, rows].mT, shift[here, :, columns])
                    strip.copy_(add(moved))
            self.mean, self.count = common, total

    def clear(self) -> None:
        """Forget all images."""
        with self._changing():
            self.count = 0
            self.mean.zero_()
            self.scatter.zero_()

    def distances(self, block: Tensor) -> Tensor:
        """Mahalanobis distances (P, m) of a block (P, m, d) to the images seen so far.

        Nothing is consumed: the stream goes on afterwards. Only some positions' covariances and
        factors exist at a time, beside the scatter.

        Raises
        ------
        NotPositiveDefiniteError
            If the embeddings seen were not finite.
        """
        self._check_sound()
        result = block.new_empty(block.shape[:2])
        for start in range(0, len(block), _TEMPORARY):
            here = slice(start, start + _TEMPORARY)
            # 上三角从未写过；Cholesky 分解也只读下三角
            covariance = self.scatter[here].tril().div_(self.count - 1)  # (c, d, d)
            covariance.diagonal(dim1=1, dim2=2).add_(EPSILON)
            result[here] = Gaussians(self.mean[here].float(), covariance).distances(block[here])
        return result

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean (P, d) and covariance (P, d, d) float32, the latter in the scatter's memory.

        Raises
        ------
        ValueError
            For fewer than two images: the unbiased covariance divides by n − 1.
        FeatureError
            If a feature was not finite, or too large to square in float32; the message names the position.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two images, not {self.count}")
        covariance = self.scatter

        def complete(here: slice) -> None:
            chunk = covariance[here]
            diagonal = chunk.diagonal(dim1=1, dim2=2)
            # |σij|² ≤ σii·σjj：对角线有限，则整个矩阵有限
            finite = (diagonal.isfinite() & self.mean[here].isfinite()).all(1)
            if not finite.all():
                position = here.start + int(finite.logical_not().nonzero()[0])
                raise FeatureError(f"the training features at position {position} are not finite")
            _mirror(chunk, upper=True)  # 重来也一样
            with _not_repeatable():
                chunk.div_(self.count - 1)
                diagonal.add_(EPSILON)  # 公式 1：+ εI

        with self._changing():
            mean = self.mean.float()
            _by_chunks(complete, *covariance.shape[:2], covariance.device)
        self.scatter, self._is_sound = None, False  # 内存已交出
        return mean, covariance


def _mirror(chunk: Tensor, upper: bool) -> None:
    """Copy a triangle of matrices (c, d, d), bit for bit: the lower onto the ``upper``, or the upper onto the lower."""
    d = chunk.shape[1]
    for row in range(0, d, _STRIP):
        rows, rest = slice(row, row + _STRIP), slice(row + _STRIP, None)
        if upper:
            chunk[:, rows, rest] = chunk[:, rest, rows].mT
        else:
            chunk[:, rest, rows] = chunk[:, rows, rest].mT
        square = chunk[:, rows, rows]
        ones = torch.ones(square.shape[1:], dtype=torch.bool, device=chunk.device)
        square.copy_(torch.where(ones.triu(1) if upper else ones.tril(-1), square.mT, square))


class Gaussians:
    """The fitted Gaussians of all positions; covariances and Cholesky factors share one memory.

    Parameters
    ----------
    mean : Tensor, (P, d) float32
    covariance : Tensor, (P, d, d) float32
        Symmetric. It becomes this object's own: the factors are written into its lower triangles.

    Notes
    -----
    The factors are made by the first call of `distances`, chunk by chunk. The covariances stay in the strict upper
    triangles, their diagonal beside, so that nothing is lost when that is interrupted, and `covariance` has them
    back bit for bit.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        self.mean, self._memory = mean, covariance
        self._diagonal: Tensor | None = None  # (P, d)，下三角里不再全是协方差时
        self._is_factorised = False

    @torch.inference_mode()
    def covariance(self) -> Tensor:
        """The covariances (P, d, d): this object's memory, with the factors replaced if they are there."""
        if self._diagonal is not None:
            self._is_factorised = False
            diagonal = self._diagonal

            def restore(here: slice) -> None:
                chunk = self._memory[here]
                _mirror(chunk, upper=False)
                chunk.diagonal(dim1=1, dim2=2).copy_(diagonal[here])

            _by_chunks(restore, *self._memory.shape[:2], self._memory.device)
            self._diagonal = None
        return self._memory

    def distances(self, block: Tensor) -> Tensor:
        """Mahalanobis distances (P, m) float32 of embeddings (P, m, d) float32 to their position's Gaussian.

        Raises
        ------
        NotPositiveDefiniteError
            If a covariance has no Cholesky factor; the message names the first such position.
        """
        if not self._is_factorised:
            covariance = self.covariance()
            self._diagonal = covariance.diagonal(dim1=1, dim2=2).clone()
            factorise(covariance)
            self._is_factorised = True
        return mahalanobis(block, self.mean, self._memory)


def factorise(covariance: Tensor) -> None:
    """Write the Cholesky factors of covariances (P, d, d) into their lower triangles, chunk by chunk.

    Raises
    ------
    NotPositiveDefiniteError
        The message names the first such position.
    """
    lower = torch.ones(covariance.shape[1:], dtype=torch.bool, device=covariance.device).tril()

    def one(here: slice) -> None:
        chunk = covariance[here]
        factor, info = torch.linalg.cholesky_ex(chunk)
        if info.any():
            position = here.start + int(info.ne(0).nonzero()[0])
            raise NotPositiveDefiniteError(f"the covariance at position {position} is not positive definite")
        torch.where(lower, factor, chunk, out=chunk)  # 只此一步改变内存，之后不会再失败

    _by_chunks(one, *covariance.shape[:2], covariance.device)


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

    _by_chunks(solve, *mean.shape, block.device)
    return distances
