"""The defective regions of a picture, in pixels of the picture itself: resize and crop are undone.

图片中有缺陷的区域，以原图的像素计：缩放与裁剪已还原。
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, find_objects, label
from skimage.measure import find_contours

from datasets.preprocessing import Preprocessing


@dataclass(frozen=True)
class Peak:
    """The highest value of the raw map in a region, and the pixel it lies in."""

    score: float
    x: int
    y: int


@dataclass(frozen=True)
class Defect:
    """A connected part (eight neighbours) of the predicted mask.

    The picture's left upper corner is (0, 0), pixel (x, y) covers [x, x + 1) × [y, y + 1).

    Attributes
    ----------
    box : list of int
        Left, top, right, bottom, half-open: the pixels from left to right − 1, top to bottom − 1.
    area : int
        Pixels, holes not counted.
    peak : Peak
    outline : list of [float, float]
        x, y around the region, closed; holes are passed over.
    """

    box: list[int]
    area: int
    peak: Peak
    outline: list[list[float]]


def find_defects(
    raw: np.ndarray, mask: np.ndarray, preprocessing: Preprocessing, size: tuple[int, int]
) -> list[Defect]:
    """The defects in the predicted mask, those with the highest peaks first.

    Parameters
    ----------
    raw : ndarray, (H, W) float32
        The anomaly map.
    mask : ndarray, (H, W) bool
        From `experiment.report.colours.Colours.mask`.
    preprocessing : Preprocessing
        What the picture went through.
    size : (int, int)
        Width and height of the picture.
    """
    resized, cut = preprocessing.placement(size)
    numbered, _ = label(mask, np.ones((3, 3)))
    scale = np.divide(size, resized)  # 缩放后的一个像素合原图多少，横、纵
    defects = []
    for number, (rows, columns) in enumerate(find_objects(numbered), 1):
        own = numbered[rows, columns] == number  # 外接矩形之内，只取这一块
        start, stop = (columns.start, rows.start), (columns.stop, rows.stop)
        scores = np.where(own, raw[rows, columns], -np.inf)
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        peak = start[0] + int(column), start[1] + int(row)
        # 填平孔、补一圈零：轮廓只有一条，而且闭合。像素的中心是整数，故减去补的 1，再加半个像素
        (contour,) = find_contours(np.pad(binary_fill_holes(own), 1), 0.5, fully_connected="high")
        outline = contour[:, ::-1] - 0.5 + start + cut  # 行、列 → x、y
        # 都是整数运算：边界恰好是整数时，不会因舍入差一个像素
        box = [(at + c) * n // m for at, c, n, m in zip(start, cut, size, resized, strict=True)]
        box += [-(-(at + c) * n // m) for at, c, n, m in zip(stop, cut, size, resized, strict=True)]  # 向上取整
        x, y = ((2 * (at + c) + 1) * n // (2 * m) for at, c, n, m in zip(peak, cut, size, resized, strict=True))
        area = round(own.sum() * scale.prod())
        top = Peak(float(str(scores.max())), x, y)  # 与 CSV 里的得分同样的数字
        defects.append(Defect(box, area, top, (outline * scale).round(2).tolist()))
    return sorted(defects, key=lambda one: -one.peak.score)
