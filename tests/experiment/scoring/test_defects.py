"""Regions of the predicted mask, in the pixels of the picture that was given."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from datasets.preprocessing import Preprocessing
from experiment.report.colours import predicted_mask
from experiment.scoring.defects import find_defects

PLAIN = Preprocessing(64, 0)


def area_within(outline) -> float:
    """The shoelace formula."""
    x, y = np.transpose(outline)
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2


@pytest.mark.parametrize(
    ("size", "preprocessing", "box"),
    [
        ((900, 900), Preprocessing(), (300, 400, 480, 620)),
        ((1000, 700), Preprocessing(), (480, 120, 700, 300)),
        ((600, 800), Preprocessing(256, 0), (50, 600, 300, 780)),
        ((640, 427), Preprocessing((128, 256), (112, 224)), (222, 111, 444, 333)),
        ((90, 60), Preprocessing((256, 384), 0), (10, 10, 40, 30)),
    ],
)
def test_a_rectangle_is_found_where_it_was_drawn(size, preprocessing, box):
    """Drawn in the picture, prepared as pictures are, found again: to a pixel of the coarser of the two."""
    picture = Image.new("RGB", size)
    left, top, right, bottom = box
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), "white")
    raw = preprocessing.framed(picture)[..., 0].astype(np.float32) / 25.5
    (region,) = find_defects(raw, predicted_mask(raw, 5.0), preprocessing, size)
    resized, _ = preprocessing.placement(size)
    across, down = (max(1, whole / part) for whole, part in zip(size, resized, strict=True))
    assert all(isinstance(edge, int) for edge in region.box)
    assert (np.abs(np.subtract(region.box, box)) <= [across, down, across, down]).all(), (region.box, box)
    assert region.area == pytest.approx((right - left) * (bottom - top), rel=0.1)
    assert area_within(region.outline) == pytest.approx(region.area, rel=0.05)
    x, y = np.transpose(region.outline)
    assert (
        x.min() >= region.box[0] and x.max() <= region.box[2] and y.min() >= region.box[1] and y.max() <= region.box[3]
    )
    assert region.outline[0] == region.outline[-1]


def test_numbers_by_hand():
    """Twice as many pixels across, three times as many down; the crop takes 8 columns and 4 rows."""
    preprocessing = Preprocessing((40, 80), (32, 64))
    raw = np.zeros((32, 64), np.float32)
    raw[10:22, 20:40] = 7
    raw[13, 31] = 9.5
    (region,) = find_defects(raw, predicted_mask(raw, 5.0), preprocessing, (160, 120))
    assert region.box == [2 * 28, 3 * 14, 2 * 48, 3 * 26]
    assert (region.peak.score, region.peak.x, region.peak.y) == (9.5, 2 * 39 + 1, 3 * 17 + 1)
    corners = 240 - (raw > 5).sum() + region.area / 6  # 开运算削去四角
    assert region.area % 6 == 0 and 200 < corners < 240
    sides = np.array(region.outline)
    assert sides.min(0).tolist() == [56, 42] and sides.max(0).tolist() == [96, 78]


def test_several_with_holes_at_the_edges_and_touching():
    raw = np.zeros((64, 64), np.float32)
    raw[:20, :20] = 6  # 在角上
    raw[30:60, 30:60] = 8
    raw[41:49, 41:49] = 0  # 孔
    raw[20:30, 50:64] = 7  # 与上一块相接，在右边上
    raw[58:60, 2:10] = 9  # 太小，开运算后不在
    first, second = find_defects(raw, predicted_mask(raw, 5.0), PLAIN, (64, 64))
    assert (first.box, second.box) == ([30, 20, 64, 60], [0, 0, 20, 20])
    assert first.peak.score == 8 and second.peak.score == 6
    assert second.outline[0] == second.outline[-1] and area_within(second.outline) == pytest.approx(400, rel=0.03)
    assert area_within(first.outline) > first.area + 50  # 孔不算面积，轮廓绕过它


def test_nothing_to_find():
    raw = np.full((64, 64), 3, np.float32)
    assert find_defects(raw, predicted_mask(raw, 5.0), PLAIN, (64, 64)) == []
