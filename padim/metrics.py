"""ROC, precision–recall, best F1 and per-region overlap, exactly, at every size of test set.

ROC、精确率–召回率、最佳 F1 与区域重叠率：不论测试集多大，都精确（论文 IV.A）。

Scikit-learn's ``roc_auc_score``, ``average_precision_score`` and ``precision_recall_curve`` define the metrics; for the
per-region overlap it is the data set's authors' own evaluation code (in the package ``pyaupro``). The tests hold the
metrics against both.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from padim.aupimo import ENOUGH, aupimo
from padim.counts import Counts, Masks, at_once, count_pixels, inside
from padim.curves import CELLS, bin_ends, polyline, vertices
from padim.overlap import STRICT_LIMIT, RegionOverlap, region_overlap
from padim.uncertainty import image_interval, pixel_interval
from system.errors import UserError
from system.files import forget


@final  # 没有子类，就总是真：`image and image.roc` 是曲线或 None
@dataclass(frozen=True)
class Evaluation:
    """Metrics of scores against binary labels.

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


@final
@dataclass(frozen=True)
class ClassEvaluation:
    """Metrics of a class's test set; what is None is not available.

    Attributes
    ----------
    image_scores : ndarray, (N,) float32
        Raw.
    image_range, pixel_range : (float, float)
        The least and the largest raw score of the images, and of all pixels; without maps both are the images'.
    image, pixel : Evaluation or None
    overlap, strict_overlap : RegionOverlap or None
        Up to false-positive rates of 0.3 and of 0.05.
    aupimo : ndarray, (N,) float64, or None
    wins : ndarray, (D, N) int64, or None
        As in `padim.counts.Counts`.
    image_interval, pixel_interval : [float, float] or None
        95 % intervals of both ROC AUCs.
    remarks : list of str
        Why metrics, or an interval, are None, where AUPIMO means little, and which defects lie outside of the region.
    """

    image_scores: np.ndarray
    image_range: tuple[float, float]
    pixel_range: tuple[float, float]
    image: Evaluation | None
    pixel: Evaluation | None
    overlap: RegionOverlap | None
    strict_overlap: RegionOverlap | None
    aupimo: np.ndarray | None
    wins: np.ndarray | None
    image_interval: list[float] | None
    pixel_interval: list[float] | None
    remarks: list[str]

    @property
    def rocauc(self) -> dict[str, float | None]:
        """The ROC AUC of both levels, ``image`` and ``pixel``."""
        return {"image": self.image and self.image.rocauc, "pixel": self.pixel and self.pixel.rocauc}

    @property
    def threshold(self) -> float | None:
        """The normalised pixel score with the best F1, the original code's threshold of the predicted mask."""
        return None if self.pixel is None else float(normalise(np.float64(self.pixel.threshold), *self.pixel_range))


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
) -> ClassEvaluation:
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

    Raises
    ------
    UserError
        If a score is not finite.
    """
    if maps is None:
        assert image_scores is not None
        image_range = pixel_range = _range(image_scores)
    else:
        low, maxima = _extremes(maps, region)
        image_range = pixel_range = low, float(maxima.max())  # 图像得分 = 异常图的最大值，与像素同一尺度
        if image_scores is not None:
            image_range = _range(image_scores)  # 另有得分的，用它自己的尺度
        image_scores = maxima if image_scores is None else image_scores
    if not np.isfinite((*pixel_range, *image_range)).all():  # NaN 会传到这里
        raise UserError(
            "an anomaly score is not finite: the weights hold NaN or are far out of scale; try other --weights"
        )
    image = evaluate_scores(image_scores, labels)  # 图像级
    image_95, image_reason = image_interval(image_scores, labels) if image else (None, None)
    counts = (
        None if maps is None or masks is None else count_pixels(maps, masks, region=region)
    )  # 没有掩码，就只有图像级
    areas = pixel = overlap = strict = pixel_95 = pixel_reason = None
    if counts and maps is not None and masks is not None:
        areas = aupimo(maps, masks, labels, region=region)  # 每张图一个
        pixel = evaluate(counts)  # 像素级
        overlap, strict = region_overlap(counts), region_overlap(counts, STRICT_LIMIT)  # 积到 0.3，积到 0.05
        pixel_95, pixel_reason = pixel_interval(counts.wins, labels, counts.sizes, counts.size)
    reasons = ("image", image_reason), ("pixel", pixel_reason)
    remarks = [f"no interval of the {level} ROC AUC: {reason}" for level, reason in reasons if reason]
    if image is None:
        remarks.append(f"no image figures of merit: all test pictures are {'defective' if labels.any() else 'good'}")
    if maps is not None and counts is None:
        within = "" if region is None else " within the region"
        why = "there are no masks" if masks is None else f"all pixels of the masks are alike{within}"
        remarks.append(f"no pixel figures of merit: {why}")
    if counts and areas is not None and (few := int(np.count_nonzero(labels == 0)) * counts.size) < ENOUGH:
        remarks.append(
            f"AUPIMO starts at a false-positive rate of 1e-5, which is under ten of the {few} pixels of the good test "
            "pictures: it is coarse"
        )
    if masks is not None and region is not None and (unseen := _unseen(masks, np.flatnonzero(labels), region)):
        words = "defective test pictures have no defect pixel within the region, and still count as defective"
        remarks.append(f"{unseen} of {np.count_nonzero(labels)} {words}")
    return ClassEvaluation(
        image_scores=image_scores,
        image_range=image_range,
        pixel_range=pixel_range,
        image=image,
        pixel=pixel,
        overlap=overlap,
        strict_overlap=strict,
        aupimo=areas,
        wins=None if counts is None else counts.wins,
        image_interval=image_95,
        pixel_interval=pixel_95,
        remarks=remarks,
    )


def _range(scores: np.ndarray) -> tuple[float, float]:
    return float(scores.min()), float(scores.max())


def _extremes(maps: np.ndarray, region: np.ndarray | None) -> tuple[float, np.ndarray]:
    """The least value of all maps (N, H, W), and every map's largest (N,), in a region; not a number where one is."""
    lows, highs, chunk = [], [], at_once(*maps.shape[1:])
    for start in range(0, len(maps), chunk):
        pixels = inside(maps[start : start + chunk], region)
        lows.append(pixels.min())
        highs.append(pixels.max(axis=1))
        forget(maps)
    return float(np.min(lows)), np.concatenate(highs)


def _unseen(masks: Masks, defective: np.ndarray, region: np.ndarray) -> int:
    """How many of these pictures have no defect pixel in a region."""
    return sum(not np.asarray(masks[int(i)])[region].any() for i in defective)  # 全在区域之外时，没有 Counts 可问


def evaluate_scores(scores: np.ndarray, labels: np.ndarray) -> Evaluation | None:
    """Evaluate scores against as many labels, non-zero is defect; None where one kind of label is missing."""
    counts = count_pixels(np.reshape(scores, (1, 1, -1)), np.reshape(labels, (1, 1, -1)))  # 都当作一张图的像素
    return None if counts is None else evaluate(counts)


def normalise(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Min–max normalisation over a class's test set; all zero where the maps are constant."""
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)  # 全部测试图用同一尺度，同原代码
