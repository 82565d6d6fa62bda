"""Pixels of a test set counted by score: what every figure of merit follows from.

测试集的像素按得分计数：所有评价指标都由此得出（论文 IV.A）。相邻的两个缺陷得分之间只有正常像素，
故缺陷像素的得分，连同各得分之下与相等的正常像素数，就完全决定了它们。

Between two neighbouring distinct scores of defect pixels only normal pixels come in as a threshold is lowered: the
true-positive rate, the recall and every region's overlap stand still. So everything is known exactly from the defect
pixels' scores, sorted, and from how many normal pixels lie below and at each of them: a sum over chunks of maps.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.ndimage import label

from system.files import forget

CHUNK = 64  # 一次读入的异常图数


class Masks(Protocol):
    """Masks (N, H, W), non-zero is defect, that are read a few at a time."""

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Counts:
    """What every figure of merit follows from; K is the number of distinct scores of defect pixels.

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
    """

    scores: np.ndarray
    defect: np.ndarray
    gain: np.ndarray
    below: np.ndarray
    equal: np.ndarray
    positive: int
    negative: int

    @property
    def true_positives(self) -> np.ndarray:
        """Defect pixels at or above each score, (K,) int64."""
        return np.cumsum(self.defect[::-1])[::-1]  # 从高分往低分累加

    @property
    def false_positives(self) -> np.ndarray:
        """Normal pixels at or above each score, (K,) int64."""
        return self.negative - self.below


def count_pixels(maps: np.ndarray, masks: Masks, chunk: int = CHUNK) -> Counts | None:
    """Count the pixels of maps, in two passes over them.

    Parameters
    ----------
    maps : ndarray, (N, H, W) float
        May be a mapped file: ``chunk`` maps are read at a time.
    masks : (N, H, W)
        Non-zero is defect.
    chunk : int
        Does not change the result in any bit.

    Returns
    -------
    Counts or None
        None where there is no defect pixel, or no normal one.

    Notes
    -----
    A region is an 8-connected component of a mask. One chunk is held, and about 40 bytes a defect pixel; four times
    that while curves are made.
    """
    # 第一遍：只看缺陷像素
    found: list[np.ndarray] = []  # 每段里缺陷像素的得分
    weights: list[np.ndarray] = []  # 与它们的 1/|R|
    regions = 0
    for part in _parts(len(maps), chunk):
        numbered, count = _label_regions(masks[part])
        numbers = numbered[numbered > 0]
        found.append(maps[part][numbered > 0] + 0)  # 加零：-0 与 0 同分
        weights.append(1 / np.bincount(numbers, minlength=count + 1)[numbers])
        regions += count
        forget(maps)
    values = np.concatenate(found) if found else np.empty(0)
    positive, negative = len(values), maps.size - len(values)
    if positive == 0 or negative == 0:
        return None
    order = np.argsort(values, kind="stable")  # 得分升序
    values = values[order]
    first = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])  # (K,)，同分的各组之首
    gain = np.add.reduceat(np.concatenate(weights)[order], first) / regions  # (K,)，对平均重叠率的贡献
    scores, defect = values[first], np.diff(np.r_[first, positive])
    del found, weights, values, order, first  # 第二遍之前让出内存

    # 每段的正常像素排序，再查每个缺陷得分落在何处：之下几个，相等几个。缺陷得分多，段也要长，查的总次数才不超过像素数
    chunk = max(chunk, 2 * len(scores) * len(maps) // maps.size)
    below, equal = np.zeros(len(scores), np.int64), np.zeros(len(scores), np.int64)
    for part in _parts(len(maps), chunk):
        normal = np.asarray(maps[part])[np.asarray(masks[part]) == 0]  # 只读的映射取出的也只读（NumPy 2.2 之前）
        normal.sort()
        left = np.searchsorted(normal, scores, "left")
        below += left
        equal += np.searchsorted(normal, scores, "right") - left
        forget(maps)
    return Counts(scores, defect, gain, below, equal, positive, negative)


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _label_regions(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected regions of masks (n, H, W), numbered from 1 over all pictures, and their number."""
    # 三维结构元只连同一张图里的像素：一次标完
    return label(np.asarray(masks) != 0, np.pad(np.ones((1, 3, 3), bool), ((1, 1), (0, 0), (0, 0))))
