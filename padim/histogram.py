"""Pixels of test sets that are too large to sort, counted by score in one pass.

太大而不排序的测试集：像素按得分计数，一遍完成。
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label

from system.files import forget

BINS = 1 << 22
CHUNK = 64  # 一次读入的异常图数


@dataclass(frozen=True)
class Histogram:
    """Pixels by score, from the highest score down; empty bins are left out.

    Attributes
    ----------
    thresholds : ndarray, (K,) float32
        The lowest score of every bin.
    defect, normal : ndarray, (K,) int64
        Numbers of pixels.
    gain : ndarray, (K,) float64
        Sum of 1/|R| over the defect pixels, R being the region that a pixel is in.
    regions : int
        Number of regions.
    """

    thresholds: np.ndarray
    defect: np.ndarray
    normal: np.ndarray
    gain: np.ndarray
    regions: int


def label_regions(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected regions of masks (N, H, W), numbered from 1 over all pictures, and their number."""
    # 三维结构元只连同一张图里的像素：一次标完
    return label(masks != 0, np.pad(np.ones((1, 3, 3), bool), ((1, 1), (0, 0), (0, 0))))


def count_pixels(maps: np.ndarray, masks: np.ndarray, low: float, high: float) -> Histogram:
    """Count pixels in `BINS` bins of equal width.

    Parameters
    ----------
    maps : ndarray, (N, H, W) float32
    masks : ndarray, (N, H, W)
        Non-zero is defect. Both may be mapped files: a few pictures are read at a time.
    low, high : float
        The least and the largest score.
    """
    defect, normal, gain = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS)
    width, total = (high - low) / BINS or 1.0, 0
    for start in range(0, len(maps), CHUNK):
        here = slice(start, start + CHUNK)
        bins = ((maps[here].astype(np.float64) - low) / width).astype(np.int64).clip(0, BINS - 1).reshape(-1)
        regions, count = label_regions(masks[here])
        regions, total = regions.reshape(-1), total + count
        inside = regions > 0
        sizes = np.bincount(regions, minlength=count + 1)
        normal += np.bincount(bins[~inside], minlength=BINS)
        defect += np.bincount(bins[inside], minlength=BINS)
        gain += np.bincount(bins[inside], 1 / sizes[regions[inside]], BINS)
        forget(maps, masks)
    kept = np.flatnonzero(defect + normal)[::-1]
    thresholds = np.nextafter((low + kept * width).astype(np.float32), np.float32(-np.inf))  # 不高于格内任何分数
    return Histogram(thresholds, defect[kept], normal[kept], gain[kept], total)
