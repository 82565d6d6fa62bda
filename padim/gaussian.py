"""One multivariate Gaussian for every patch position, from a stream of embeddings.

每个位置一个多元高斯，由嵌入的流估计（论文 III.B，公式 1）。

References
----------
Defard et al., arXiv 2011.08785, section III.B: equation 1 (mean and regularised covariance).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import torch
from torch import Tensor

from padim import EPSILON
from padim.chunks import by_chunks, lower_strips, mirror
from padim.device import empty
from system.errors import UserError, is_out_of_memory

_MERGED = 1 << 25  # 与其他进程合并时，一次相加的协方差元素数


@contextmanager
def _not_repeatable() -> Iterator[None]:
    """Changes in place: what memory is refused to here must not be tried again."""
    try:
        yield
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
        raise MemoryError("out of memory amid a change of the covariances") from problem


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
        self._zeroing: Thread | None = None
        if device.type == "cpu":
            # 几 GB 内存初次写入费时，在网络处理第一批图片时就开始
            self.scatter = empty(shape, device)
            self._zeroing = Thread(target=self.scatter.numpy().fill, args=(0,), daemon=True)
            self._zeroing.start()
        else:
            self.scatter = torch.zeros(shape, device=device)

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
            x = block[here]  # (c, m, d)，c 个位置
            deviations = x.new_empty((len(x), m + 1, d))  # D：(c, m + 1, d)，末行留给均值之差
            average = x.mean(1)  # (c, d)
            # 补正一次舍入：不变的特征，均值分毫不差，协方差恰为 εI
            average += torch.sub(x, average[:, None], out=deviations[:, :m]).mean(1)
            shift = average - self.mean[here]  # b − a
            torch.sub(x, average[:, None], out=deviations[:, :m])
            deviations[:, m] = shift * (n * m / (n + m)) ** 0.5  # 末行：√(nm/(n + m))·(b − a)
            step = shift * (m / (n + m))  # 均值由 a 移向 b
            with _not_repeatable():  # 需要内存的都在此之前
                # 公式 1 的求和：S ← S + DᵀD
                for rows, columns in lower_strips(d):  # 对称：只算下三角，省去四成乘法
                    self.scatter[here, rows, columns].baddbmm_(deviations[..., rows].mT, deviations[..., columns])
                self.mean[here] += step

        with self._changing():
            by_chunks(merge, positions, d, block.device)
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
            # 总数 n = Σ nᵣ，共同的均值 a = Σ nᵣaᵣ / n
            total = int(add(torch.tensor([self.count], dtype=torch.float64, device=self.mean.device)))
            common = add(self.mean * self.count).div_(max(total, 1))
            # 各自的散布移到共同的均值：+ nᵣ(aᵣ − a)(aᵣ − a)ᵀ，再求和
            shift = ((self.mean - common) * self.count**0.5).float()[:, None]  # (P, 1, d)
            size = max(1, _MERGED // d**2)
            for start in range(0, positions, size):
                here = slice(start, start + size)
                strips = [self.scatter[here, rows, columns] for rows, columns in lower_strips(d)]
                moved = [
                    torch.baddbmm(strip, shift[here, :, rows].mT, shift[here, :, columns]).flatten()
                    for strip, (rows, columns) in zip(strips, lower_strips(d), strict=True)
                ]
                total_here = add(torch.cat(moved))  # 一段位置的全部下三角，一条消息
                for strip, part in zip(strips, total_here.split([m.numel() for m in moved]), strict=True):
                    strip.copy_(part.view(strip.shape))
            self.mean, self.count = common, total

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean (P, d) float64 and covariance (P, d, d) float32, the latter in the scatter's memory.

        Raises
        ------
        ValueError
            For fewer than two images: the unbiased covariance divides by n − 1.
        UserError
            If a feature was not finite, or too large to square in float32; the message names the position.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two images, not {self.count}")
        self._check_sound()
        covariance = self.scatter

        def complete(here: slice) -> None:
            chunk = covariance[here]
            diagonal = chunk.diagonal(dim1=1, dim2=2)
            # |σij|² ≤ σii·σjj：对角线有限，则整个矩阵有限
            finite = (diagonal.isfinite() & self.mean[here].isfinite()).all(1)
            if not finite.all():
                position = here.start + int(finite.logical_not().nonzero()[0])
                raise UserError(
                    f"the training features at position {position} are not finite: the weights hold NaN or are far out "
                    "of scale; try other --weights"
                )
            mirror(chunk, upper=True)  # 重来也一样
            with _not_repeatable():
                chunk.div_(self.count - 1)  # 公式 1：无偏，除以 N − 1
                diagonal.add_(EPSILON)  # 公式 1：+ εI

        with self._changing():
            mean = self.mean
            by_chunks(complete, len(mean), mean.shape[1], covariance.device)
        self._is_sound = False
        del self.scatter  # 内存已交出
        return mean, covariance
