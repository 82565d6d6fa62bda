"""ROC, precision–recall and the best-F1 threshold, all from one sort; per-region overlap from another.

ROC、精确率–召回率、最佳 F1 阈值与区域重叠率（论文 IV.A）。

Scikit-learn's ``roc_curve``, ``roc_auc_score`` and ``precision_recall_curve`` define the former;
the data set's authors' own evaluation code (in the package ``pyaupro``) the latter. The tests hold
the figures against both.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from padim.curves import TOLERANCE, bin_ends, thin
from padim.histogram import CHUNK, Histogram, count_pixels, label_regions
from system.errors import UserError
from system.files import forget

SORTED = 1 << 26  # 像素更多的测试集（1300 张 224×224 的图）不排序，只计数
PRO_LIMIT = 0.3  # 区域重叠曲线积分到此假阳性率


@final  # 没有子类，就总是真：`image and image.roc` 是曲线或 None
@dataclass(frozen=True)
class Evaluation:
    """Figures of merit of scores against binary labels.

    Attributes
    ----------
    rocauc : float
    threshold : float
        The score with the best F1; scores above it count as defective in the figures.
    roc : ndarray, (K, 2) float64
        False-positive rate, true-positive rate; thinned.
    pr : ndarray, (K, 2) float64
        Recall, precision; thinned.
    """

    rocauc: float
    threshold: float
    roc: np.ndarray
    pr: np.ndarray


def evaluate(scores: np.ndarray, labels: np.ndarray) -> Evaluation | None:
    """Evaluate scores against labels.

    Parameters
    ----------
    scores : ndarray, float32
        Higher is more anomalous; any shape.
    labels : ndarray
        Non-zero is defect; of the same number of elements.

    Returns
    -------
    Evaluation or None
        None where one kind of label is missing: neither figure is defined then.
    """
    return _from_counts(*_counts(scores, labels))


def _from_counts(tp: np.ndarray, fp: np.ndarray, thresholds: np.ndarray) -> Evaluation | None:
    """Evaluate from the true and false positives at descending thresholds."""
    positive, negative = int(tp[-1]), int(fp[-1])
    if positive == 0 or negative == 0:
        return None
    # 梯形面积的两倍是整数，没有舍入；几百亿像素时才超出 int64
    steps, heights = np.diff(fp, prepend=0), tp + np.r_[0, tp[:-1]]
    area = float(np.sum(steps * heights)) if 2 * positive * negative < 1 << 62 else steps.astype(float) @ heights
    # F1 = 2TP / (2TP + FP + FN)；并列时取最低的阈值，与 scikit-learn 的升序 argmax 相同
    f1 = 2 * tp / (tp + fp + positive)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))

    # 几百万个点先按网格粗抽，再拟合：每格内曲线的起伏不到容差的一半
    cells = int(2 / TOLERANCE)
    kept = bin_ends(fp * cells // negative, tp * cells // positive)
    roc = np.column_stack([fp[kept] / negative, tp[kept] / positive])
    kept = bin_ends(tp * cells // positive, tp * cells // (tp + fp))
    pr = np.column_stack([tp[kept] / positive, tp[kept] / (tp + fp)[kept]])
    return Evaluation(
        rocauc=float(area / (2 * positive * negative)),
        threshold=float(thresholds[best]),
        roc=thin(np.vstack([[0.0, 0.0], roc])),
        pr=thin(np.vstack([[0.0, 1.0], pr])),
    )


@final
@dataclass(frozen=True)
class RegionOverlap:
    """Per-region overlap (PRO) against the false-positive rate.

    Attributes
    ----------
    aupro : float
        Area under the curve up to the limit, divided by the limit: 0 to 1.
    curve : ndarray, (K, 2) float64
        False-positive rate, mean overlap, from (0, 0) to the limit; thinned.
    """

    aupro: float
    curve: np.ndarray


def per_region_overlap(maps: np.ndarray, masks: np.ndarray, limit: float = PRO_LIMIT) -> RegionOverlap | None:
    """Evaluate maps by the mean overlap with the defect regions, over all thresholds.

    Parameters
    ----------
    maps : ndarray, (N, H, W) float32
        Raw anomaly maps of the whole test set.
    masks : ndarray, (N, H, W)
        Non-zero is defect.
    limit : float
        The largest false-positive rate, above 0 and at most 1.

    Returns
    -------
    RegionOverlap or None
        None where there is no defect or no normal pixel.

    Notes
    -----
    A region is an 8-connected component of a mask. At a threshold t the overlap is the mean over all
    regions R of |{p ∈ R : s(p) ≥ t}| / |R|, so that a small defect counts as much as a large one; the
    false-positive rate is over all normal pixels of all pictures, the good ones included. The curve
    has a point at every distinct score, is linear between them, and is cut at the limit by
    interpolation.

    References
    ----------
    Paper, section IV.A (PRO-score); Bergmann et al., "Uninformed Students", CVPR 2020.
    """
    regions, count = label_regions(masks)
    scores, regions = maps.reshape(-1), regions.reshape(-1)  # (N·H·W,)
    sizes = np.bincount(regions)
    negative = int(sizes[0])
    if count == 0 or negative == 0:
        return None
    # 只有假阳性率不超过上限的像素有用：先选出，再排序
    rank = max(0, negative - 2 - int(limit * negative))
    kept = scores >= np.partition(scores[regions == 0], rank)[rank]
    scores, regions = scores[kept], regions[kept]
    order = np.argsort(scores)[::-1]
    scores, regions = scores[order], regions[order]

    # 正常像素推进假阳性率；区域 R 的像素给平均重叠加 1 / (|R|·区域数)；同分的像素一起算
    gain = np.r_[0, 1 / (sizes[1:] * count)]
    last = np.r_[np.flatnonzero(np.diff(scores)), len(scores) - 1]
    fpr = np.r_[0, np.cumsum(regions == 0)[last] / negative]
    overlap = np.r_[0, np.minimum(np.cumsum(gain[regions])[last], 1)]
    return _region_overlap(fpr, overlap, limit)


def _region_overlap(fpr: np.ndarray, overlap: np.ndarray, limit: float) -> RegionOverlap:
    """Cut the curve from (0, 0) on at the limit, and integrate it."""
    end = int(np.searchsorted(fpr, limit))
    overlap = np.r_[overlap[:end], np.interp(limit, fpr[end - 1 : end + 1], overlap[end - 1 : end + 1])]
    fpr = np.r_[fpr[:end], limit]
    thinned = bin_ends(*((v * 2 / TOLERANCE).astype(np.int64) for v in (fpr, overlap)))
    return RegionOverlap(
        aupro=float(np.trapezoid(overlap, fpr) / limit),
        curve=thin(np.column_stack([fpr[thinned], overlap[thinned]])),
    )


def evaluate_maps(
    maps: np.ndarray, labels: np.ndarray, masks: np.ndarray | None
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Evaluate a class's test set (paper, section IV.A; the thresholds are the original code's).

    Parameters
    ----------
    maps : ndarray, (N, H, W) float32
        Raw anomaly maps.
    labels : ndarray, (N,)
        1 for a picture with a defect.
    masks : ndarray, (N, H, W), or None
        Non-zero is defect; None scores images only.

    Returns
    -------
    arrays : dict
        What the result folder keeps; None is not available.
    row : dict
        ``image_rocauc``, ``pixel_rocauc``, ``pixel_aupro`` and ``threshold`` (of normalised pixel scores).

    Raises
    ------
    UserError
        If a map holds a value that is not finite.

    Notes
    -----
    Up to `SORTED` pixels are sorted, and everything is exact. More are counted in a histogram, in one pass
    and constant memory: the pixel figures are then exact for scores rounded down to one of four
    million levels, and the ROC AUC differs from the exact one by less than 1e-5.
    """
    lows, highs = [], []
    for start in range(0, len(maps), CHUNK):
        lows.append(maps[start : start + CHUNK].min())
        highs.append(maps[start : start + CHUNK].max(axis=(1, 2)))  # 图像得分 = 异常图的最大值
        forget(maps)
    image_raw = np.concatenate(highs)
    low, high = float(np.min(lows)), float(image_raw.max())  # NaN 会传到结果里
    if not np.isfinite((low, high)).all():
        raise UserError(
            "an anomaly map is not finite: the weights hold NaN or are far out of scale; try other --weights"
        )
    image = evaluate(image_raw, labels)
    pixel = overlap = None
    if masks is not None and maps.size > SORTED:
        pixel, overlap = _from_histogram(count_pixels(maps, masks, low, high))
    elif masks is not None:
        pixel, overlap = evaluate(maps, masks), per_region_overlap(maps, masks)
    threshold = None if pixel is None else float(normalise(np.float64(pixel.threshold), low, high))
    arrays = {
        "labels": labels,
        "masks": masks,
        "image_scores": normalise(image_raw, low, high),
        "threshold": threshold,
        "threshold_raw": pixel and pixel.threshold,
        "image_threshold_raw": image and image.threshold,
        "score_min": low,
        "score_max": high,
        "image_roc": image and image.roc,
        "pixel_roc": pixel and pixel.roc,
        "pixel_pr": pixel and pixel.pr,
        "pixel_pro": overlap and overlap.curve,
    }
    row = {
        "image_rocauc": image and image.rocauc,
        "pixel_rocauc": pixel and pixel.rocauc,
        "pixel_aupro": overlap and overlap.aupro,
        "threshold": threshold,
    }
    return arrays, row


def _from_histogram(found: Histogram) -> tuple[Evaluation | None, RegionOverlap | None]:
    """Both pixel evaluations, every bin standing for one score."""
    tp, fp = np.cumsum(found.defect), np.cumsum(found.normal)
    if found.regions == 0 or fp[-1] == 0:
        return _from_counts(tp, fp, found.thresholds), None
    overlap = np.minimum(np.cumsum(found.gain) / found.regions, 1)
    return _from_counts(tp, fp, found.thresholds), _region_overlap(np.r_[0, fp / fp[-1]], np.r_[0, overlap], PRO_LIMIT)


def _counts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and false positives at or above every distinct score, scores descending."""
    # 把分数的位模式与标签拼进一个整数：一次直接排序，不必 argsort 再取下标
    bits = (np.ascontiguousarray(scores, np.float32).reshape(-1) + np.float32(0)).view(np.uint32)  # -0 与 0 同分
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # 与浮点数同序的整数
    keys = ordered.astype(np.uint64) << np.uint64(1) | (np.asarray(labels).reshape(-1) != 0).astype(np.uint64)
    keys.sort()
    keys = keys[::-1]
    ordered = (keys >> np.uint64(1)).astype(np.uint32)
    last = np.r_[np.flatnonzero(np.diff(ordered)), len(keys) - 1]  # 每个不同分数的最后一处
    tp = np.cumsum(keys & np.uint64(1), dtype=np.int64)[last]
    ordered = ordered[last]
    thresholds = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered).astype(np.uint32)
    return tp, last + 1 - tp, thresholds.view(np.float32)


def normalise(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Min–max normalisation over a class's test set; all zero where the maps are constant."""
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)
