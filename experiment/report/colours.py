"""How a raw anomaly map becomes colours, and a mask: decided here for every figure, of runs and of new pictures.

原始异常图如何变成颜色与掩码：运行的图、新图片的图，都由此处决定。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from experiment.report.threshold import Thresholds
from padim.metrics import normalise

OPENING_RADIUS = 4  # 像素
_FAINT, _MOST = 1 / 3, 0.9  # 十张缺陷图有九张不到尺度的三分之一：看上去一片蓝


@dataclass(frozen=True)
class Bar:
    """What stands beside a colour bar: its words in both languages, its ends, where it is marked."""

    english: str
    chinese: str
    low: float
    high: float
    mark: float | None = None


OF_CLASS = Bar("share of the class's range", "占本类得分范围的比例", 0, 1)
OF_THRESHOLD = Bar("times the threshold", "阈值的倍数", 0, 2, 1)


@dataclass(frozen=True)
class Colours:
    """The colours and the mask of raw maps.

    Attributes
    ----------
    low, high : float
        The raw scores at the ends of the colour scale.
    threshold : float or None
        Raw; pixels above it are the predicted mask.
    bar : Bar
    """

    low: float
    high: float
    threshold: float | None
    bar: Bar

    def scaled(self, raw: np.ndarray) -> np.ndarray:
        """Raw scores on the colour scale, whose ends are 0 and 1; some may lie beyond them."""
        return normalise(raw, self.low, self.high)

    def mask(self, raw: np.ndarray) -> np.ndarray | None:
        """The predicted mask (H, W) bool of a raw map (H, W); None without a threshold."""
        return None if self.threshold is None else predicted_mask(raw, self.threshold)


def predicted_mask(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores above the threshold, opened with a disk of radius 4: (H, W) bool.

    Where a map is not looked at it is NaN; that border is taken as the picture's own.
    """
    from scipy.ndimage import binary_dilation, binary_erosion  # 只打分、不画图的，不必等它

    above = scores > threshold
    if not above.any():  # 好图多半如此：开运算比解码一张小图还慢
        return above
    # 与 skimage.morphology.opening 逐位相同，而 skimage 还要再等 0.4 秒
    y, x = np.ogrid[-OPENING_RADIUS : OPENING_RADIUS + 1, -OPENING_RADIUS : OPENING_RADIUS + 1]
    disk = x * x + y * y <= OPENING_RADIUS**2
    outside = np.isnan(scores)
    eroded = binary_erosion(above | outside, disk, border_value=1)
    return binary_dilation(eroded & ~outside, disk) & ~outside


def colours_of(thresholds: Thresholds, scale: str) -> Colours:
    """The colours that go with these thresholds.

    Parameters
    ----------
    thresholds : Thresholds
    scale : str
        ``class`` from the least to the largest score of the class's test set, as published;
        ``threshold`` from 0 to twice the pixel threshold, so that a colour says the same in every class.

    Notes
    -----
    Where one of them is not known, the other is taken; where neither is, raw scores from 0 to 2√d, since a
    normal patch's squared distance is d on average.
    """
    pixel, ends = thresholds.pixel, thresholds.test_range
    known = {}
    if ends is not None and ends[1] > ends[0]:
        known["class"] = Colours(*ends, pixel, OF_CLASS)
    if pixel is not None and pixel > 0:
        known["threshold"] = Colours(0.0, 2 * pixel, pixel, OF_THRESHOLD)
    high = 2 * sqrt(thresholds.dimensions)
    return known.get(scale) or next(iter(known.values()), Colours(0, high, pixel, Bar("raw", "原始值", 0, high)))


def scale_of(results: dict[str, Any], name: str) -> str:
    """The scale of a class's figures where none is asked for: the run's ``--colours``, else as was published.

    Parameters
    ----------
    results : dict
        The results file.
    name : str
    """
    row = results["classes"][name]
    # 发表的设置，在 MVTec AD 上；没有缺陷图的，正常图片自己的最高分不该是最深的红
    is_comparable = row["published"] is not None and row["image_rocauc"] is not None
    return results["run"]["options"].get("colours") or ("class" if is_comparable else "threshold")


def are_faint(colours: Colours, maxima: Sequence[float]) -> bool:
    """Whether defective pictures, given their maps' maxima, lie so low on the scale that most look like good ones."""
    return bool(maxima) and float(np.mean(colours.scaled(np.asarray(maxima)) < _FAINT)) >= _MOST
