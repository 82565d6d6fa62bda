"""Per-region overlap: the data set's authors' own code, and the definition written out."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyaupro import PerRegionOverlap
from skimage.measure import label

from padim.counts import count_pixels
from padim.curves import MAX_POINTS, TOLERANCE
from padim.metrics import evaluate_maps
from padim.overlap import PRO_LIMIT, RegionOverlap, region_overlap


def per_region_overlap(maps: np.ndarray, masks: np.ndarray, limit: float = PRO_LIMIT) -> RegionOverlap | None:
    counts = count_pixels(maps, masks)
    return None if counts is None else region_overlap(counts, limit)


def area(fpr: np.ndarray, overlap: np.ndarray, limit: float) -> float:
    """Under a curve up to the limit, divided by the limit: piece by piece, the last one cut."""
    total = 0.0
    for (x, y), (next_x, next_y) in pairwise(zip(fpr, overlap, strict=True)):
        if x < next_x and x < limit:
            width = min(next_x, limit) - x
            total += width * (y + (next_y - y) * width / (next_x - x) / 2)
    return float(total / limit)


def by_definition(maps: np.ndarray, masks: np.ndarray, limit: float = PRO_LIMIT) -> float:
    """Threshold by threshold, region by region, in float64."""
    regions = [
        (i, labelled == k)
        for i, mask in enumerate(masks)
        for labelled in [label(mask != 0, connectivity=2)]
        for k in range(1, labelled.max() + 1)
    ]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        overlap = np.mean([found[i][region].mean(dtype=np.float64) for i, region in regions])
        points.append((found[masks == 0].mean(dtype=np.float64), overlap))
    return area(*np.array(points).T, limit)


def data(n: int = 12, side: int = 40, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Maps with defects of many sizes, some touching by a corner; with ``steps``, of few distinct scores."""
    rng = np.random.default_rng(3)
    masks = np.zeros((n, side, side), np.uint8)
    for i in range(n // 3, n):
        for y, x, h, w in rng.integers([0, 0, 1, 1], [side - 12, side - 12, 12, 12], (3, 4)):
            masks[i, y : y + h, x : x + w] = rng.integers(1, 256)
            masks[i, y + h, x + w] = 1  # 只以一角相连
    maps = rng.gamma(4, 1, masks.shape) + 2 * (masks > 0)
    return (maps if steps is None else np.round(maps * steps)).astype(np.float32), masks


@pytest.mark.parametrize("limit", [0.05, 0.3])
@pytest.mark.parametrize("steps", [None, 4, 1])
def test_the_data_sets_own_evaluation(steps, limit):
    """Its false-positive rates are float32."""
    import torch

    maps, masks = data(30, 96, steps)
    reference = PerRegionOverlap(reference_implementation=True)
    reference.update(torch.from_numpy(maps), torch.from_numpy((masks > 0).astype(np.int64)))
    fpr, overlap = (v.numpy().astype(np.float64) for v in reference.compute())
    result = per_region_overlap(maps, masks, limit)
    assert result.aupro == pytest.approx(area(fpr, overlap, limit), abs=1e-6)
    assert 0.02 < result.aupro < 0.9


@pytest.mark.parametrize("steps", [None, 4, 1])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_the_definition(steps, limit):
    maps, masks = data(6, 24, steps)
    assert per_region_overlap(maps, masks, limit).aupro == pytest.approx(by_definition(maps, masks, limit), abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_the_definition_on_any_small_maps(draw):
    shape = draw.draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
    count = int(np.prod(shape))
    scores = draw.draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    defects = draw.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    maps, masks = np.float32(scores).reshape(shape), np.uint8(defects).reshape(shape)
    limit = draw.draw(st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0]))
    result = per_region_overlap(maps, masks, limit)
    if all(defects) or not any(defects):
        assert result is None
    else:
        assert result.aupro == pytest.approx(by_definition(maps, masks, limit), abs=1e-12)


def test_by_hand():
    maps = np.float32([[[9, 7, 5, 3, 1, 0]], [[8, 6, 4, 2, 1, 0]]])
    masks = np.array([[[1, 0, 1, 1, 0, 0]], [[0, 0, 0, 0, 0, 0]]])
    # 九个正常像素；0.9 之前：(0, ½) (1/9, ½) (2/9, ½) (3/9, ½) → 5 使重叠为 ¾，4 → 4/9，3 使重叠为 1
    wanted = (3 * 0.5 + 0.75) / 9 + (1 - 4 / 9) * 1
    assert per_region_overlap(maps, masks, 1.0).aupro == pytest.approx(wanted, abs=1e-15)
    assert per_region_overlap(maps, masks).aupro == pytest.approx(0.5, abs=1e-15)


def test_perfect_inverted_and_constant_maps():
    masks = data()[1] > 0
    assert per_region_overlap(masks.astype(np.float32), masks).aupro == pytest.approx(1, abs=1e-12)
    assert per_region_overlap(-masks.astype(np.float32), masks).aupro == 0
    # 只有一个分数：一条对角线，至 0.3 的面积除以 0.3 为 0.15
    constant = per_region_overlap(np.ones(masks.shape, np.float32), masks)
    assert constant.aupro == pytest.approx(0.15, abs=1e-12)
    np.testing.assert_allclose(constant.curve, [[0, 0], [0.3, 0.3]])


def test_order_and_monotone_maps_do_not_matter():
    maps, masks = data()
    wanted = per_region_overlap(maps, masks).aupro
    order = np.random.default_rng(0).permutation(len(maps))
    assert per_region_overlap(maps[order], masks[order]).aupro == pytest.approx(wanted, abs=1e-12)
    turned = per_region_overlap(maps[:, ::-1].transpose(0, 2, 1), masks[:, ::-1].transpose(0, 2, 1))
    assert turned.aupro == pytest.approx(wanted, abs=1e-12)
    for changed in (maps * 8, -1 / (1 + maps.astype(np.float64)), maps.astype(np.float64) ** 3):
        assert per_region_overlap(changed, masks).aupro == pytest.approx(wanted, abs=1e-12)


def test_a_small_defect_counts_as_much_as_a_large_one_and_regions_do_not_span_pictures():
    masks = np.zeros((2, 20, 20), np.uint8)
    masks[0, 2:12, 2:12] = masks[1, 2:4, 2:4] = 1  # 上下叠着，却是两张图里的两个区域
    maps = np.zeros(masks.shape, np.float32)
    maps[1][masks[1] > 0] = 1
    maps[masks == 0] = 0.5
    assert per_region_overlap(maps, masks).aupro == pytest.approx(0.5)


def test_good_pictures_count_in_the_false_positive_rate():
    maps, masks = data()
    good = np.zeros((12, 40, 40), np.float32)
    more = per_region_overlap(np.concatenate([maps, good]), np.concatenate([masks, np.zeros_like(masks)]))
    assert more.aupro > per_region_overlap(maps, masks).aupro + 0.05


def test_the_stored_curve():
    maps, masks = data(40, 128)
    result = per_region_overlap(maps, masks)
    assert len(result.curve) <= MAX_POINTS
    assert result.curve[0].tolist() == [0, 0] and result.curve[-1, 0] == PRO_LIMIT
    assert (np.diff(result.curve, axis=0) >= 0).all()
    assert area(*result.curve.T, PRO_LIMIT) == pytest.approx(result.aupro, abs=2 * TOLERANCE / PRO_LIMIT)


def test_a_whole_class_is_quick():
    rng = np.random.default_rng(0)
    maps = rng.random((83, 224, 224), np.float32)
    masks = (maps.max() - maps < 0.02) & (np.arange(83) > 20)[:, None, None]
    start = time.perf_counter()
    assert 0.9 < per_region_overlap(maps, masks).aupro < 1
    assert time.perf_counter() - start < 3


def test_undefined():
    maps = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    assert per_region_overlap(maps, np.zeros((2, 8, 8))) is None
    assert per_region_overlap(maps, np.ones((2, 8, 8))) is None
    found = evaluate_maps(maps, np.array([0, 1]), None)
    assert found.overlap is found.strict_overlap is None
