"""ROC, precision–recall and the best-F1 threshold, all from one sort.

Scikit-learn's ``roc_curve``, ``roc_auc_score`` and ``precision_recall_curve`` define the figures;
the tests hold them against it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_POINTS = 2000  # 存盘曲线的点数上限
TOLERANCE = 1e-4  # 存盘曲线与精确曲线的最大距离


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
    tp, fp, thresholds = _counts(scores, labels)
    positive, negative = int(tp[-1]), int(fp[-1])
    if positive == 0 or negative == 0:
        return None
    # 梯形面积的两倍是整数，没有舍入
    area = np.sum(np.diff(fp, prepend=0) * (tp + np.r_[0, tp[:-1]]))
    # F1 = 2TP / (2TP + FP + FN)；并列时取最低的阈值，与 scikit-learn 的升序 argmax 相同
    f1 = 2 * tp / (tp + fp + positive)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))

    # 几百万个点先按网格粗抽，再拟合：每格内曲线的起伏不到容差的一半
    cells = int(2 / TOLERANCE)
    kept = _bin_ends(fp * cells // negative, tp * cells // positive)
    roc = np.column_stack([fp[kept] / negative, tp[kept] / positive])
    kept = _bin_ends(tp * cells // positive, tp * cells // (tp + fp))
    pr = np.column_stack([tp[kept] / positive, tp[kept] / (tp + fp)[kept]])
    return Evaluation(
        rocauc=float(area / (2 * positive * negative)),
        threshold=float(thresholds[best]),
        roc=thin(np.vstack([[0.0, 0.0], roc])),
        pr=thin(np.vstack([[0.0, 1.0], pr])),
    )


def _bin_ends(*bins: np.ndarray) -> np.ndarray:
    """Indices at which any of the integer arrays is about to change or has just changed."""
    changes = np.logical_or.reduce([b[1:] != b[:-1] for b in bins])
    return np.flatnonzero(np.r_[True, changes] | np.r_[changes, True])


class NotFiniteError(ValueError):
    """Anomaly maps with NaN or infinite values."""


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
        ``image_rocauc``, ``pixel_rocauc`` and ``threshold`` (of normalised pixel scores).

    Raises
    ------
    NotFiniteError
        If a map holds a value that is not finite.
    """
    low, high = float(maps.min()), float(maps.max())
    if not np.isfinite((low, high)).all():
        raise NotFiniteError("an anomaly map holds values that are not finite")
    image_raw = maps.max(axis=(1, 2))  # 图像得分 = 异常图的最大值
    image = evaluate(image_raw, labels)
    pixel = None if masks is None else evaluate(maps, masks)
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
    }
    row = {"image_rocauc": image and image.rocauc, "pixel_rocauc": pixel and pixel.rocauc, "threshold": threshold}
    return arrays, row


def _counts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and false positives at or above every distinct score, scores descending."""
    # 把分数的位模式与标签拼进一个整数：一次直接排序，不必 argsort 再取下标
    bits = np.ascontiguousarray(scores, np.float32).reshape(-1).view(np.uint32)
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


def thin(curve: np.ndarray) -> np.ndarray:
    """Leave out points of a curve (K, 2) that lie within `TOLERANCE` of the lines that remain.

    Never more than `MAX_POINTS` remain: where that many do not suffice (the first, noisy stretch of
    a precision–recall curve), the tolerance doubles until they do.
    """
    from skimage.measure import approximate_polygon  # 装入要半秒多，只有计算曲线时才用；绘图脚本用不到

    tolerance, thinned = TOLERANCE / 2, curve
    while len(thinned) > MAX_POINTS:
        thinned = approximate_polygon(curve, tolerance)
        tolerance *= 2
    return thinned


def normalise(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Min–max normalisation over a class's test set; all zero where the maps are constant."""
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)
