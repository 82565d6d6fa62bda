"""Pixels of a test set counted by score: what every metric follows from.

测试集的像素按得分计数：所有评价指标都由此得出（论文 IV.A）。相邻的两个缺陷得分之间只有正常像素，
故缺陷像素的得分，连同各得分之下与相等的正常像素数，就完全决定了它们。

Between two neighbouring distinct scores of defect pixels only normal pixels come in as a threshold is lowered: the
true-positive rate, the recall and every region's overlap stand still. So everything is known exactly from the defect
pixels' scores, sorted, and from how many normal pixels lie below and at each of them: a sum over the pictures, whose
terms also say how often one picture's defect pixels score higher than another picture's normal ones.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from system.files import forget

CHUNK = 64  # 一次读入的异常图数，至多
_PIXELS = 1 << 24  # 它们的像素数，至多：图大时，一次少读几张


class Masks(Protocol):
    """Masks (N, H, W), non-zero is defect, that are read a few at a time."""

    def __getitem__(self, part: slice | int, /) -> np.ndarray: ...


def inside(pictures: np.ndarray, region: np.ndarray | None) -> np.ndarray:
    """The pixels (N, P) of maps or masks (N, H, W) that lie in a region (H, W) bool; without one all of them."""
    count, height, width = pictures.shape
    return pictures.reshape(count, height * width) if region is None else pictures[:, region]


@dataclass(frozen=True)
class Counts:
    """What every metric follows from; K is the number of distinct scores of defect pixels.

    Attributes
    ----------
    scores : ndarray, (K,) float
        Ascending.
    defect : ndarray, (K,) int64
        Defect pixels with each score.
    gain : ndarray, (K,) float64
        Their part of the mean overlap: the sum of 1 / (|R|·regions), R being the region that a pixel is in.
    below, equal : ndarray, (K,) int64
        Normal pixels with a lower score, and with this one.
    positive, negative : int
        All defect and all normal pixels; neither is 0.
    sizes : ndarray, (N,) int64
        Every picture's defect pixels.
    wins : ndarray, (D, N) int64
        For each picture with defect pixels and for every picture, twice the pairs of one of the former's defect
        pixels and one of the latter's normal pixels in which the defect pixel scores higher; pairs that tie once.
    """

    scores: np.ndarray
    defect: np.ndarray
    gain: np.ndarray
    below: np.ndarray
    equal: np.ndarray
    positive: int
    negative: int
    sizes: np.ndarray
    wins: np.ndarray

    @property
    def size(self) -> int:
        """Pixels of a picture that count."""
        return (self.positive + self.negative) // len(self.sizes)

    @property
    def true_positives(self) -> np.ndarray:
        """Defect pixels at or above each score, (K,) int64."""
        return np.cumsum(self.defect[::-1])[::-1]  # 从高分往低分累加

    @property
    def false_positives(self) -> np.ndarray:
        """Normal pixels at or above each score, (K,) int64."""
        return self.negative - self.below


def at_once(height: int, width: int) -> int:
    """How many maps of this size are read together."""
    return max(1, min(CHUNK, _PIXELS // (height * width)))


def count_pixels(
    maps: np.ndarray, masks: Masks, chunk: int | None = None, region: np.ndarray | None = None
) -> Counts | None:
    """Count the pixels of maps, in two passes over them.

    Parameters
    ----------
    maps : ndarray, (N, H, W) float
        May be a mapped file: ``chunk`` maps are read at a time.
    masks : (N, H, W)
        Non-zero is defect.
    chunk : int, optional
        By default `at_once`. Does not change the result in any bit.
    region : ndarray, (H, W) bool, optional
        Pixels outside of it are neither normal nor defect.

    Returns
    -------
    Counts or None
        None where there is no defect pixel, or no normal one.

    Notes
    -----
    A region is an 8-connected component of a mask, which is cut to ``region`` first. One chunk is held, and about 60
    bytes a defect pixel; three times that while curves are made.

    A normal pixel with the score x lies below every defect score of which no more than k scores are ≤ x, where k counts
    the distinct defect scores from the lowest; it lies below or at it where no more than k are < x. So two histograms
    of a picture's normal pixels over the defect scores, added up from the lowest, are its terms of all sums.
    """
    chunk = chunk or at_once(*maps.shape[1:])
    # 第一遍：只看缺陷像素
    in_pictures: list[np.ndarray] = []  # 每张图的缺陷像素数
    found: list[np.ndarray] = []  # 每段里缺陷像素的得分
    weights: list[np.ndarray] = []  # 与它们的 1/|R|
    regions = 0
    for part in _parts(len(maps), chunk):
        truth = np.asarray(masks[part]) != 0
        numbered, count = _label_regions(truth if region is None else truth & region)
        in_pictures.append(np.count_nonzero(numbered, axis=(1, 2)))
        numbers = numbered[numbered > 0]
        found.append(maps[part][numbered > 0] + 0)  # 加零：-0 与 0 同分
        weights.append(1 / np.bincount(numbers, minlength=count + 1)[numbers])
        regions += count
        forget(maps)
    values = np.concatenate(found) if found else np.empty(0)
    of_a_picture = maps.shape[1] * maps.shape[2] if region is None else np.count_nonzero(region)
    positive, negative = len(values), len(maps) * of_a_picture - len(values)
    if positive == 0 or negative == 0:
        return None
    order = np.argsort(values, kind="stable")  # 得分升序
    values = values[order]
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])  # (K,)，同分的各组之首
    gain = np.add.reduceat(np.concatenate(weights)[order], first) / regions  # (K,)，对平均重叠率的贡献
    scores, defect = values[first], np.diff(np.r_[first, positive])
    ranks = np.empty(positive, np.int64)
    ranks[order] = np.repeat(np.arange(len(scores)), defect)  # 每个缺陷像素的得分是第几个，按图排列
    sizes = np.concatenate(in_pictures)
    starts = (np.cumsum(sizes) - sizes)[sizes > 0]  # (D,)，有缺陷的各图的像素之首
    del found, weights, values, order, first  # 第二遍之前让出内存

    # 第二遍：每张图的正常像素落在哪两个缺陷得分之间
    under, within = np.zeros(len(scores) + 1, np.int64), np.zeros(len(scores) + 1, np.int64)
    wins = np.empty((len(starts), len(maps)), np.int64)
    for part in _parts(len(maps), chunk):
        pictures, truth = (inside(np.asarray(each[part]), region) for each in (maps, masks))
        for i, (picture, mask) in enumerate(zip(pictures, truth, strict=True), part.start):
            # 大多低于所有的缺陷得分，不必查；其余的排了序，查起来快
            normal = np.sort(picture[(mask == 0) & (picture >= scores[0])])
            lower = np.searchsorted(scores, normal)  # 比它低的缺陷得分有几个
            upper = lower + (scores[np.minimum(lower, len(scores) - 1)] == normal)  # 不比它高的
            least, most = (np.bincount(each, minlength=len(under)) for each in (lower, upper))
            for each in (least, most):
                each[0] += picture.size - sizes[i] - len(normal)
            within += least
            under += most
            twice = np.cumsum(least + most)  # (K + 1,)，高于它的两倍，加相等的：之下的数两次，相等的数一次
            wins[:, i] = np.add.reduceat(twice[ranks], starts)
        forget(maps)
    below = np.cumsum(under)[:-1]
    equal = np.cumsum(within)[:-1] - below
    return Counts(scores, defect, gain, below, equal, positive, negative, sizes, wins)


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _label_regions(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected regions of masks (n, H, W) bool, numbered from 1 over all pictures, and their number."""
    # 三维结构元只连同一张图里的像素：一次标完
    from scipy.ndimage import label  # 新图片的打分用不到它

    return label(masks, np.pad(np.ones((1, 3, 3), bool), ((1, 1), (0, 0), (0, 0))))
