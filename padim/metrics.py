"""ROC, precision–recall, best F1 and per-region overlap, exactly, at every size of test set.

ROC、精确率–召回率、最佳 F1 与区域重叠率：不论测试集多大，都精确（论文 IV.A）。

Scikit-learn's ``roc_auc_score``, ``average_precision_score`` and ``precision_recall_curve`` define the figures; for the
per-region overlap it is the data set's authors' own evaluation code (in the package ``pyaupro``). The tests hold the
figures against both.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from padim.aupimo import ENOUGH, aupimo
from padim.counts import CHUNK, Counts, Masks, count_pixels, inside
from padim.curves import CELLS, bin_ends, polyline, vertices
from padim.overlap import STRICT_LIMIT, region_overlap
from padim.uncertainty import image_interval, pixel_interval
from system.errors import UserError
from system.files import forget

FIGURES = (
    "image_rocauc",
    "pixel_rocauc",
    "pixel_aupro",
    "pixel_aupro_05",
    "pixel_aupimo",
    "image_ap",
    "image_f1",
    "pixel_ap",
    "pixel_f1",
)
INTERVALS = ("image_rocauc_interval", "pixel_rocauc_interval")  # 95 %


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
    roc = vertices((above[kept] / negative, before[kept] / positive), (fp[kept] / negative, tp[kept] / positive))
    # 精确率–召回率：正常像素进来时召回率不动，精确率降到下一个得分之前
    entering = np.r_[negative, above[:-1]]  # 下一个（更低的）得分之上的正常像素
    lowest = tp / (tp + entering)
    kept = bin_ends(*(np.floor(v * CELLS).astype(np.int32) for v in (tp / positive, precision, lowest)))[::-1]
    recall = tp[kept] / positive
    pr = vertices((recall, precision[kept]), (recall, lowest[kept]))
    start = [[0.0, 1.0], [0.0, 0.0]] if above[-1] else [[0.0, 1.0]]  # 得分最高的是正常像素：先降到精确率 0
    return Evaluation(
        # 任取一个缺陷像素、一个正常像素，前者得分较高的比例；同分算一半
        rocauc=_integer_sum(counts.defect, 2 * counts.below + counts.equal) / (2 * positive * negative),
        # 精确率对召回率的阶梯下的面积
        ap=float(counts.defect @ precision / positive),
        f1=float(f1[best]),
        threshold=float(counts.scores[best]),
        roc=polyline([0.0, 0.0], roc, [1.0, 1.0]),
        pr=polyline(start, pr),
    )


def _integer_sum(a: np.ndarray, b: np.ndarray) -> int:
    """Σ a·b of non-negative int64, exact even where it exceeds 63 bits."""
    half = 20  # b 分高低两段：每段的和都在 int64 之内
    return int(a @ (b & (1 << half) - 1)) + (int(a @ (b >> half)) << half)


def evaluate_maps(
    maps: np.ndarray | None,
    labels: np.ndarray,
    masks: Masks | None,
    image_scores: np.ndarray | None = None,
    region: np.ndarray | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
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
    region : ndarray, (H, W) bool, optional
        What is looked at: pixels outside of it take no part in anything.

    Returns
    -------
    arrays : dict
        What the result folder keeps; None is not available.
    row : dict
        `FIGURES`; ``threshold`` (of normalised pixel scores); `INTERVALS`, each [low, high] or None; and ``remarks``,
        a list of str: why figures of merit, or an interval, are None, where AUPIMO means little, and which defects lie
        outside of the region.

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
        low, maxima = _extremes(maps, region)
        high = float(maxima.max())
        # 图像得分 = 异常图的最大值，与像素同一尺度；另有得分的，用它自己的尺度
        ends = (low, high) if image_scores is None else (float(image_scores.min()), float(image_scores.max()))
        image_scores = maxima if image_scores is None else image_scores
    if not np.isfinite((low, high, *ends)).all():  # NaN 会传到这里
        raise UserError(
            "an anomaly score is not finite: the weights hold NaN or are far out of scale; try other --weights"
        )
    image = evaluate_scores(image_scores, labels)  # 图像级
    counts, areas = None, None
    if maps is not None and masks is not None:  # 没有掩码，就只有图像级
        counts = count_pixels(maps, masks, region=region)
        areas = aupimo(maps, masks, labels, region=region) if counts else None  # 每张图一个
    pixel = None if counts is None else evaluate(counts)  # 像素级
    overlap = None if counts is None else region_overlap(counts)  # 积到 0.3
    strict = None if counts is None else region_overlap(counts, STRICT_LIMIT)  # 积到 0.05
    intervals, remarks = _intervals(image_scores, labels, image, counts)
    if image is None:
        remarks.append(f"no image figures of merit: all test pictures are {'defective' if labels.any() else 'good'}")
    if maps is not None and counts is None:
        why = "there are no masks" if masks is None else "all pixels of the masks are alike"
        remarks.append(f"no pixel figures of merit: {why}")
    if counts and areas is not None and (few := int(np.count_nonzero(labels == 0)) * counts.size) < ENOUGH:
        remarks.append(
            f"AUPIMO starts at a false-positive rate of 1e-5, which is under ten of the {few} pixels of the good test "
            "pictures: it is coarse"
        )
    if counts and region is not None and (unseen := np.count_nonzero((labels != 0) & (counts.sizes == 0))):
        words = "defective test pictures have no defect pixel within the region, and still count as defective"
        remarks.append(f"{unseen} of {np.count_nonzero(labels)} {words}")
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
        "pixel_wins": counts and counts.wins,
        "pixel_aupimo": areas,
    }
    row = {
        "image_rocauc": image and image.rocauc,
        "pixel_rocauc": pixel and pixel.rocauc,
        "pixel_aupro": overlap and overlap.aupro,
        "pixel_aupro_05": strict and strict.aupro,
        "pixel_aupimo": None if areas is None else float(np.nanmean(areas)),
        "image_ap": image and image.ap,
        "image_f1": image and image.f1,
        "pixel_ap": pixel and pixel.ap,
        "pixel_f1": pixel and pixel.f1,
        "threshold": threshold,
        **intervals,
        "remarks": remarks,
    }
    return arrays, row


def _intervals(
    scores: np.ndarray, labels: np.ndarray, image: Evaluation | None, counts: Counts | None
) -> tuple[dict[str, list[float] | None], list[str]]:
    """`INTERVALS`, and why there is none where there is a ROC AUC."""
    nothing: tuple[None, None] = None, None
    found = (
        image_interval(scores, labels) if image else nothing,
        pixel_interval(counts.wins, labels, counts.sizes, counts.size) if counts else nothing,
    )
    reasons = [
        f"no interval of the {level} ROC AUC: {reason}"
        for level, (_, reason) in zip(("image", "pixel"), found, strict=True)
        if reason
    ]
    return dict(zip(INTERVALS, (interval for interval, _ in found), strict=True)), reasons


def _extremes(maps: np.ndarray, region: np.ndarray | None) -> tuple[float, np.ndarray]:
    """The least value of all maps (N, H, W), and every map's largest (N,), in a region; not a number where one is."""
    lows, highs = [], []
    for start in range(0, len(maps), CHUNK):
        pixels = inside(maps[start : start + CHUNK], region)
        lows.append(pixels.min())
        highs.append(pixels.max(axis=1))
        forget(maps)
    return float(np.min(lows)), np.concatenate(highs)


def evaluate_scores(scores: np.ndarray, labels: np.ndarray) -> Evaluation | None:
    """Evaluate scores against as many labels, non-zero is defect; None where one kind of label is missing."""
    counts = count_pixels(np.reshape(scores, (1, 1, -1)), np.reshape(labels, (1, 1, -1)))  # 都当作一张图的像素
    return None if counts is None else evaluate(counts)


def normalise(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Min–max normalisation over a class's test set; all zero where the maps are constant."""
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)  # 全部测试图用同一尺度，同原代码
