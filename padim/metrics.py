"""ROC, precision–recall, best F1 and per-region overlap, exactly, at every size of test set.

ROC、精确率–召回率、最佳 F1 与区域重叠率：不论测试集多大，都精确（论文 IV.A）。

Scikit-learn's ``roc_auc_score``, ``average_precision_score`` and ``precision_recall_curve`` define the figures; for the
per-region overlap it is the data set's authors' own evaluation code (in the package ``pyaupro``). The tests hold the
figures against both.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from padim.counts import CHUNK, Counts, Masks, count_pixels
from padim.curves import CELLS, bin_ends, thin
from system.errors import UserError
from system.files import forget

PRO_LIMIT = 0.3  # 区域重叠曲线积分到此假阳性率
STRICT_LIMIT = 0.05  # 更严的上限：近年的论文另报的一项
FIGURES = (
    "image_rocauc",
    "pixel_rocauc",
    "pixel_aupro",
    "pixel_aupro_05",
    "image_ap",
    "image_f1",
    "pixel_ap",
    "pixel_f1",
)


@final  # 没有子类，就总是真：`image and image.roc` 是曲线或 None
@dataclass(frozen=True)
class Evaluation:
    """Figures of merit of scores against binary labels.

    Attributes
    ----------
    rocauc : float
    ap : float
        Average precision: the area under the steps of the precision–recall curve.
    f1 : float
        The best F1.
    threshold : float
        The lowest score with the best F1; scores above it count as defective in the figures.
    roc : ndarray, (K, 2) float64
        False-positive rate, true-positive rate; thinned.
    pr : ndarray, (K, 2) float64
        Recall, precision; thinned.
    """

    rocauc: float
    ap: float
    f1: float
    threshold: float
    roc: np.ndarray
    pr: np.ndarray


def evaluate(counts: Counts) -> Evaluation:
    """ROC, precision–recall and best F1.

    Notes
    -----
    With pos(t) defect pixels at the score t, P in all, and N normal ones:
    ROC AUC = Σ pos(t)·(below(t) + ½·equal(t)) / (P·N), summed in integers;
    average precision = Σ pos(t)/P · TP(t) / (TP(t) + FP(t));
    F1 = 2·TP / (TP + FP + P), which can only be best at a defect pixel's score.
    """
    positive, negative = counts.positive, counts.negative
    tp, fp = counts.true_positives, counts.false_positives
    precision = tp / (tp + fp)
    f1 = 2 * tp / (tp + fp + positive)  # TP + FP + P = 2TP + FP + FN
    best = int(np.argmax(f1))  # 并列时取最低的得分，与 scikit-learn 的升序 argmax 相同

    # ROC：每个得分两个端点，之间斜着（同分）；两个得分之间只有正常像素，横着
    above, before = fp - counts.equal, tp - counts.defect
    kept = bin_ends(fp * CELLS // negative, tp * CELLS // positive)[::-1]  # 粗抽；翻转后得分由高到低
    roc = _vertices((above[kept] / negative, before[kept] / positive), (fp[kept] / negative, tp[kept] / positive))
    # 精确率–召回率：正常像素进来时召回率不动，精确率降到下一个得分之前
    entering = np.r_[negative, above[:-1]]  # 下一个（更低的）得分之上的正常像素
    lowest = tp / (tp + entering)
    kept = bin_ends(*(np.floor(v * CELLS).astype(np.int32) for v in (tp / positive, precision, lowest)))[::-1]
    recall = tp[kept] / positive
    pr = _vertices((recall, precision[kept]), (recall, lowest[kept]))
    start = [[0.0, 1.0], [0.0, 0.0]] if above[-1] else [[0.0, 1.0]]  # 得分最高的是正常像素：先降到精确率 0
    return Evaluation(
        # 任取一个缺陷像素、一个正常像素，前者得分较高的比例；同分算一半
        rocauc=_integer_sum(counts.defect, 2 * counts.below + counts.equal) / (2 * positive * negative),
        # 精确率对召回率的阶梯下的面积
        ap=float(counts.defect @ precision / positive),
        f1=float(f1[best]),
        threshold=float(counts.scores[best]),
        roc=_polyline([0.0, 0.0], roc, [1.0, 1.0]),
        pr=_polyline(start, pr),
    )


def _integer_sum(a: np.ndarray, b: np.ndarray) -> int:
    """Σ a·b of non-negative int64, exact even where it exceeds 63 bits."""
    half = 20  # b 分高低两段：每段的和都在 int64 之内
    return int(a @ (b & (1 << half) - 1)) + (int(a @ (b >> half)) << half)


def _vertices(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Two vertices (x, y) for each score, in turn: (2 K, 2)."""
    return np.column_stack([*one, *other]).reshape(-1, 2)


def _polyline(*parts: Any) -> np.ndarray:
    """The parts' points one after another, repeated ones left out, thinned."""
    points = np.vstack(parts)
    return thin(points[np.r_[True, (points[1:] != points[:-1]).any(1)]])


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


def region_overlap(counts: Counts, limit: float = PRO_LIMIT) -> RegionOverlap:
    """The mean overlap with the defect regions, over all thresholds, up to a false-positive rate.

    Parameters
    ----------
    counts : Counts
    limit : float
        The largest false-positive rate, above 0 and at most 1.

    Notes
    -----
    At a threshold t the overlap is the mean over all regions R of |{p ∈ R : s(p) ≥ t}| / |R|, so that a small defect
    counts as much as a large one; the false-positive rate is over all normal pixels of all pictures, the good ones
    included. The curve has a point at every distinct score, is linear between them, and is cut at the limit by
    interpolation.

    References
    ----------
    Paper, section IV.A (PRO-score); Bergmann et al., "Uninformed Students", CVPR 2020.
    """
    negative, end = counts.negative, limit * counts.negative
    # 论文 IV.A 的 PRO：各缺陷区域被找到的比例，对区域取平均，大小缺陷分量相同
    found = np.minimum(np.cumsum(counts.gain[::-1])[::-1], 1)  # t 及以上的平均重叠
    before = np.r_[found[1:], 0.0]  # t 以上的
    reached = counts.false_positives  # 正常像素：t 及以上
    above = reached - counts.equal  # t 以上
    following = np.r_[negative, above[:-1]]  # 下一个（更低的）得分以上

    # 面积：斜段（同分）截在上限处，再加平段
    part = np.clip(end - above, 0, counts.equal)
    slope = (found - before) / np.maximum(counts.equal, 1)
    area = part @ (before + slope * part / 2) + np.clip(end - reached, 0, following - reached) @ found

    inside = np.flatnonzero(above <= max(end, above[-1]))  # 得分升序，故是末尾的一段，至少一个
    kept = inside[bin_ends(*(np.floor(v[inside] * CELLS).astype(np.int32) for v in (reached / negative, found)))][::-1]
    curve = _vertices((above[kept] / negative, before[kept]), (reached[kept] / negative, found[kept]))
    curve = np.vstack([[0.0, 0.0], curve, [following[inside[0]] / negative, found[inside[0]]]])
    within = curve[:, 0] <= limit
    last = max(np.interp(limit, *curve.T), curve[within][-1, 1])  # 上限处若是竖段，取其上端
    return RegionOverlap(float(area / end), _polyline(curve[within], [limit, last]))


def evaluate_maps(
    maps: np.ndarray | None, labels: np.ndarray, masks: Masks | None, image_scores: np.ndarray | None = None
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Evaluate a class's test set (paper, section IV.A; the thresholds are the original code's).

    Parameters
    ----------
    maps : ndarray, (N, H, W) float32, or None
        Raw anomaly maps; may be a mapped file. None where the model has none.
    labels : ndarray, (N,)
        1 for a picture with a defect.
    masks : (N, H, W), or None
        Non-zero is defect; None scores images only.
    image_scores : ndarray, (N,) float32, optional
        The pictures' raw scores; by default the maps' maxima.

    Returns
    -------
    arrays : dict
        What the result folder keeps; None is not available.
    row : dict
        `FIGURES` and ``threshold`` (of normalised pixel scores).

    Raises
    ------
    UserError
        If a score is not finite.
    """
    if maps is None:
        assert image_scores is not None
        low, high = float(image_scores.min()), float(image_scores.max())
        ends = low, high
    else:
        low, maxima = _extremes(maps)
        high = float(maxima.max())
        # 图像得分 = 异常图的最大值，与像素同一尺度；另有得分的，用它自己的尺度
        ends = (low, high) if image_scores is None else (float(image_scores.min()), float(image_scores.max()))
        image_scores = maxima if image_scores is None else image_scores
    if not np.isfinite((low, high, *ends)).all():  # NaN 会传到这里
        raise UserError(
            "an anomaly score is not finite: the weights hold NaN or are far out of scale; try other --weights"
        )
    image = evaluate_scores(image_scores, labels)  # 图像级
    counts = None if maps is None or masks is None else count_pixels(maps, masks)  # 没有掩码，就只有图像级
    pixel = None if counts is None else evaluate(counts)  # 像素级
    overlap = None if counts is None else region_overlap(counts)  # 积到 0.3
    strict = None if counts is None else region_overlap(counts, STRICT_LIMIT)  # 积到 0.05
    # F1 最佳处的像素得分，换到归一化之后：原代码的分割阈值
    threshold = None if pixel is None else float(normalise(np.float64(pixel.threshold), low, high))
    arrays = {
        "labels": labels,
        "masks": masks,
        "image_scores": normalise(image_scores, *ends),
        "image_score_min": ends[0],
        "image_score_max": ends[1],
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
        "pixel_aupro_05": strict and strict.aupro,
        "image_ap": image and image.ap,
        "image_f1": image and image.f1,
        "pixel_ap": pixel and pixel.ap,
        "pixel_f1": pixel and pixel.f1,
        "threshold": threshold,
    }
    return arrays, row


def _extremes(maps: np.ndarray) -> tuple[float, np.ndarray]:
    """The least value of all maps (N, H, W), and every map's largest (N,); not a number where one is."""
    lows, highs = [], []
    for start in range(0, len(maps), CHUNK):
        lows.append(maps[start : start + CHUNK].min())
        highs.append(maps[start : start + CHUNK].max(axis=(1, 2)))
        forget(maps)
    return float(np.min(lows)), np.concatenate(highs)


def evaluate_scores(scores: np.ndarray, labels: np.ndarray) -> Evaluation | None:
    """Evaluate scores against as many labels, non-zero is defect; None where one kind of label is missing."""
    pixels, masks = (np.asarray(each).reshape(-1, 1, 1) for each in (scores, labels))  # 一张图当作一个像素：(N, 1, 1)
    counts = count_pixels(pixels, masks, chunk=len(pixels))
    return None if counts is None else evaluate(counts)


def normalise(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Min–max normalisation over a class's test set; all zero where the maps are constant."""
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)  # 全部测试图用同一尺度，同原代码
