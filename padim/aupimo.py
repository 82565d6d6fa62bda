"""AUPIMO: how much of each defect is found at the few false positives that production allows.

AUPIMO：假阳性少到产线能接受时，每张图的缺陷找到多少。

References
----------
Bertoldo, Ameln, Vaidya, Akçay, "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low
Tolerance", BMVC 2024.
"""

from math import ceil

import numpy as np

from padim.counts import Masks, at_once, inside
from system.files import forget

BOUNDS = (1e-5, 1e-4)  # 正常图的假阳性率
ENOUGH = 10**6  # 正常图的像素少于此，下限处的假阳性不足十个


def aupimo(
    maps: np.ndarray, masks: Masks, labels: np.ndarray, chunk: int | None = None, region: np.ndarray | None = None
) -> np.ndarray | None:
    """The area under every defective picture's overlap curve.

    Parameters
    ----------
    maps : ndarray, (N, H, W) float
        May be a mapped file: ``chunk`` maps are read at a time.
    masks : (N, H, W)
        Non-zero is defect.
    labels : ndarray, (N,)
        Zero is good.
    chunk : int, optional
        By default `padim.counts.at_once`. Does not change the result in any bit.
    region : ndarray, (H, W) bool, optional
        Pixels outside of it are neither normal nor defect.

    Returns
    -------
    ndarray, (N,) float64, or None
        0 to 1; NaN for pictures without a defect pixel. None without good pictures.

    Notes
    -----
    At a threshold t a picture's overlap is the share of its defect pixels with scores ≥ t, and the false-positive rate
    is the mean of the good pictures' own, which, as all are of one size, is that of their pixels together. The overlap
    is averaged over the logarithm of that rate between `BOUNDS`. Between two neighbouring distinct scores of good
    pixels the rate stands still; at one of them rate and overlap both grow, the latter linearly in the former's
    logarithm. Below the first rate above zero, which has no logarithm to begin at, the overlap is what is found before
    the first false positive.
    """
    is_good, chunk = labels == 0, chunk or at_once(*maps.shape[1:])
    total = int(np.count_nonzero(is_good)) * (maps[0].size if region is None else np.count_nonzero(region))
    if total == 0:
        return None
    # 第一遍：正常图的最高的几个得分，到假阳性率的上限为止
    most, top = ceil(BOUNDS[1] * total) + 1, np.empty(0, maps.dtype)
    for start in range(0, len(maps), chunk):
        part = slice(start, start + chunk)
        top = np.concatenate([top, inside(maps[part][is_good[part]], region).ravel()])
        if len(top) > most:
            top = top[top >= np.partition(top, -most)[-most]]  # 同分的都留下：假阳性率才不少算
        forget(maps)
    scores, counts = np.unique(top, return_counts=True)
    weights = _weights(np.cumsum(counts[::-1])[::-1] / total)  # (2, K)

    # 第二遍：每张缺陷图，各得分之上、及其以上找到的比例
    areas = np.full(len(maps), np.nan)
    for start in range(0, len(maps), chunk):
        part = slice(start, start + chunk)
        pictures, truth = (inside(np.asarray(each[part]), region) for each in (maps, masks))
        for i, (picture, mask) in enumerate(zip(pictures, truth, strict=True), start):
            if mask.any():
                own = np.sort(picture[mask != 0])
                missed = [np.searchsorted(own, scores, side) for side in ("right", "left")]
                areas[i] = (weights * (1 - np.array(missed) / len(own))).sum()
        forget(maps)
    return areas


def _weights(rates: np.ndarray) -> np.ndarray:
    """What the overlap above each score, and at or above it, weighs in the average: (2, K), 1 in all.

    Parameters
    ----------
    rates : ndarray, (K,) float64
        The false-positive rates at the scores, which ascend: the last is the lowest.
    """
    low, high = np.log(BOUNDS)
    ends = np.log(rates)
    starts = np.r_[ends[1:], -np.inf]  # 每段起于更高的那个得分的假阳性率；最高的得分之前是零
    left, right = np.clip(starts, low, high), np.clip(ends, low, high)
    # 截下的一段的中点，在整段里的位置：直线在一段上的平均
    middle = np.zeros(len(ends))
    middle[:-1] = ((left + right) / 2 - starts)[:-1] / (ends - starts)[:-1]
    return (right - left) / (high - low) * np.stack([1 - middle, middle])
