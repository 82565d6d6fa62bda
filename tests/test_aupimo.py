"""AUPIMO: the definition written out threshold by threshold, and anomalib's own where it is installed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from padim.aupimo import BOUNDS, ENOUGH, aupimo


def by_definition(maps: np.ndarray, masks: np.ndarray, labels: np.ndarray) -> list[float]:
    """A polyline through a point at every score, above it and at or above it, integrated piece by piece."""
    good, found = maps[labels == 0], []
    for picture, mask in zip(maps, masks, strict=True):
        own = picture[mask != 0]
        if not own.size:
            found.append(np.nan)
            continue
        points = []  # 假阳性率，重叠率；得分由高到低，先是其上的，再是含它的
        for t in np.unique(good)[::-1]:
            points.append((np.mean([np.mean(g > t) for g in good]), np.mean(own > t)))
            points.append((np.mean([np.mean(g >= t) for g in good]), np.mean(own >= t)))
            if points[-1][0] > BOUNDS[1]:  # 之后都在上限之外
                break
        area, (low, high) = 0.0, np.log(BOUNDS)
        for (rate, overlap), (next_rate, next_overlap) in pairwise(points):
            if rate == next_rate:
                continue
            if rate == 0:  # 对数轴上没有起点：第一个假阳性之前的重叠率，一直平到它
                area += max(min(np.log(next_rate), high) - low, 0) * overlap
                continue
            x = np.log([rate, next_rate])
            a, b = np.clip(x, low, high)
            at = overlap + (next_overlap - overlap) * (np.array([a, b]) - x[0]) / (x[1] - x[0])
            area += (b - a) * at.mean()
        found.append(area / (high - low))
    return found


def data(good: int = 20, shape: tuple[int, int] = (100, 100), steps: float | None = None, defective: int = 4):
    rng = np.random.default_rng(2)
    masks = np.zeros((good + defective, *shape), np.uint8)
    for i in range(good, good + defective):
        y, x = rng.integers(0, 60, 2)
        masks[i, y : y + 30, x : x + 25] = rng.integers(1, 256)
    maps = rng.gamma(4, 1, masks.shape) + rng.gamma(9, 1, masks.shape) * (masks > 0)
    if steps:
        maps = np.round(maps * steps)
    order = rng.permutation(len(maps))
    return maps[order].astype(np.float32), masks[order], masks[order].any((1, 2)).astype(np.uint8)


@pytest.mark.parametrize("steps", [None, 3, 1])
def test_the_definition(steps):
    maps, masks, labels = data(steps=steps)
    found = aupimo(maps, masks, labels)
    np.testing.assert_allclose(found, by_definition(maps, masks, labels), rtol=0, atol=1e-12)
    assert 0.01 < np.nanmin(found) < np.nanmax(found) < 0.9 and np.isnan(found[labels == 0]).all()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_definition_and_any_chunk_on_small_maps_full_of_ties(draw):
    """Few good pixels, whose rates are far above the bounds; or many with equal scores, so that a step crosses them."""
    good, side = draw.draw(st.integers(1, 5)), draw.draw(st.sampled_from([2, 30, 120]))
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    masks = np.zeros((good + 3, side, side), np.uint8)
    masks[good:] = rng.random((3, side, side)) < 0.3
    labels = np.r_[np.zeros(good), np.ones(3)]
    spread = draw.draw(st.sampled_from([0, 1, 5, 1000]))
    maps = np.round(rng.gamma(2, 1, masks.shape) * spread + (spread > 0) * masks * 3).astype(np.float32)
    order = rng.permutation(len(maps))
    maps, masks, labels = maps[order], masks[order], labels[order]
    found = aupimo(maps, masks, labels)
    np.testing.assert_allclose(found, by_definition(maps, masks, labels), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found, aupimo(maps, masks, labels, chunk=draw.draw(st.integers(1, 9))))


def test_perfect_inverted_and_constant_maps():
    _, masks, labels = data(4)
    defective = labels == 1
    assert aupimo((masks > 0).astype(np.float32), masks, labels)[defective].tolist() == pytest.approx([1] * 4)
    assert aupimo(-(masks > 0).astype(np.float32), masks, labels)[defective].tolist() == [0] * 4
    assert aupimo(np.ones(masks.shape, np.float32), masks, labels)[defective].tolist() == [0] * 4


def test_good_pictures_alone_set_the_rate_and_an_empty_mask_has_no_overlap():
    maps, masks, labels = data()
    wanted = aupimo(maps, masks, labels)
    changed = np.where((masks == 0) & (labels[:, None, None] == 1), 1000, maps).astype(np.float32)
    np.testing.assert_array_equal(aupimo(changed, masks, labels), wanted)
    assert aupimo(maps[labels == 1], masks[labels == 1], labels[labels == 1]) is None
    first = int(np.flatnonzero(labels)[0])
    masks[first] = 0
    found = aupimo(maps, masks, labels)
    assert np.isnan(found[first]) and np.isfinite(found).sum() == 3


def test_anomalib_s_implementation():
    """It has a grid of thresholds, and ends at the attained rates that are nearest to the bounds: here they are met."""
    import torch

    functional = pytest.importorskip("anomalib.metrics.pimo.functional")
    maps, masks, labels = data(20, (250, 400))
    assert (labels == 0).sum() * maps[0].size >= 2 * ENOUGH
    theirs = functional.aupimo_scores(torch.from_numpy(maps), torch.from_numpy(masks > 0), num_thresholds=300_000)[4]
    np.testing.assert_allclose(aupimo(maps, masks, labels), theirs.numpy(), rtol=0, atol=1e-3)
