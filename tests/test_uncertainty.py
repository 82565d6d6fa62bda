"""Intervals of the ROC AUC: DeLong's by its definition, the bootstrap by drawing pictures and counting pairs anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from padim.counts import count_pixels
from padim.metrics import evaluate_maps
from padim.uncertainty import (
    DRAWS,
    Z,
    between,
    drawn_areas,
    draws,
    image_interval,
    lacking,
    pixel_interval,
    placements,
    standard_error,
)  # fmt: skip


def pairs_won(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Whether each of the former scores higher than each of the latter; a half where they tie."""
    return (above[:, None] > below) + (above[:, None] == below) / 2


def delong(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The area and its variance as the paper writes them, with sums over all pairs."""
    kernel = pairs_won(scores[labels == 1], scores[labels == 0])
    (m, n), area = kernel.shape, kernel.mean()
    s10 = sum((row.mean() - area) ** 2 for row in kernel) / (m - 1)
    s01 = sum((column.mean() - area) ** 2 for column in kernel.T) / (n - 1)
    return area, s10 / m + s01 / n


def scored(seed: int, count: int = 60, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.6).astype(np.uint8)
    scores = rng.normal(size=count) + 1.2 * labels
    return (np.round(scores * 2) if ties else scores).astype(np.float32), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_delong_s_variance_and_interval(seed, ties):
    scores, labels = scored(seed, ties=ties)
    area, variance = delong(scores, labels)
    parts = placements(scores, labels)
    assert [part.mean() for part in parts] == pytest.approx([roc_auc_score(labels, scores)] * 2, abs=1e-12)
    assert standard_error(*parts) ** 2 == pytest.approx(variance, rel=1e-12)
    (low, high), reason = image_interval(scores, labels)
    assert reason is None and 0 < low < area < high < 1
    reach = norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
    logit = np.log([low / (1 - low), high / (1 - high)])
    assert logit == pytest.approx(np.log(area / (1 - area)) + np.array([-reach, reach]), abs=1e-9)


def test_a_paired_difference_is_delong_s_covariance():
    """var(A) + var(B) − 2 cov(A, B), of the same pictures."""
    scores, labels = scored(0)
    other = scores + np.random.default_rng(9).normal(size=len(scores)).astype(np.float32)
    one, two = placements(scores, labels), placements(other, labels)
    covariance = sum(np.cov(a, b)[0, 1] / len(a) for a, b in zip(one, two, strict=True))
    wanted = standard_error(*one) ** 2 + standard_error(*two) ** 2 - 2 * covariance
    assert standard_error(one[0] - two[0], one[1] - two[1]) ** 2 == pytest.approx(wanted, rel=1e-9)


def test_the_interval_holds_the_true_area_as_often_as_it_says():
    """Two thousand small test sets whose true area is known: Φ(1 / √2)."""
    rng, hits, labels = np.random.default_rng(0), 0, np.repeat([0, 1], 25)
    for _ in range(2000):
        interval, _ = image_interval(rng.normal(size=50) + labels, labels)
        hits += interval[0] < norm.cdf(2**-0.5) < interval[1]
    assert 0.93 < hits / 2000 < 0.97


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], "the area is 1"),
        ([4, 3, 2, 1], [0, 0, 1, 1], "the area is 0 "),
        ([1, 1, 1, 1], [0, 0, 1, 1], "the area is 0.5"),
        ([1, 3, 2], [0, 0, 1], "fewer than two defective"),
        ([2, 1, 3], [0, 1, 1], "fewer than two good"),
    ],
)
def test_no_interval_where_nothing_is_known(scores, labels, words):
    """[1, 1] would say the opposite of what is true."""
    interval, reason = image_interval(np.float32(scores), np.array(labels))
    assert interval is None and words in reason
    maps, masks = np.float32(scores).reshape(-1, 1, 1) + np.zeros((1, 1, 2), np.float32), np.zeros((len(labels), 1, 2))
    masks[:, 0, 0] = labels
    maps[:, 0, 1] = np.float32(scores)[0] - ("1 " in f"{words} ")  # 缺陷图的正常像素：像第一张，面积为 1 的比它低
    assert pixel_interval(*pixels(maps, masks))[0] is None or "fewer" not in words


def pixels(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """What `pixel_interval` takes."""
    return count_pixels(maps, masks).wins, masks.any((1, 2)), np.count_nonzero(masks, (1, 2)), maps[0].size


def by_definition(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Twice the pairs that each defective picture's pixels win over each picture's normal ones, pair by pair."""
    rows = [i for i in range(len(maps)) if masks[i].any()]
    won = [
        [pairs_won(maps[a][masks[a] != 0], maps[b][masks[b] == 0]).sum(dtype=float) for b in range(len(maps))]
        for a in rows
    ]
    return 2 * np.array(won)


@st.composite
def small_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(2, 6), st.integers(1, 3), st.integers(2, 4)))
    count = int(np.prod(shape))
    highest = draw(st.sampled_from([0, 2, 1000]))
    scores = draw(st.lists(st.integers(-highest, highest), min_size=count, max_size=count))
    defects = draw(st.integers(1, count - 1))
    masks = draw(st.permutations([3] * defects + [0] * (count - defects)))
    return np.float32(scores).reshape(shape) / 7, np.uint8(masks).reshape(shape)


@settings(deadline=None, max_examples=200)
@given(small_maps(), st.integers(1, 7))
def test_the_wins_of_any_pixels_are_the_pairs_counted(pixels, chunk):
    maps, masks = pixels
    counts = count_pixels(maps, masks, chunk)
    np.testing.assert_array_equal(counts.wins, by_definition(maps, masks))
    assert counts.wins.dtype == np.int64
    pairs = 2 * counts.positive * counts.negative
    assert counts.wins.sum() / pairs == pytest.approx(roc_auc_score(masks.ravel() > 0, maps.ravel()), abs=1e-12)
    np.testing.assert_array_equal(counts.below @ counts.defect * 2 + counts.equal @ counts.defect, counts.wins.sum())


@settings(deadline=None, max_examples=100)
@given(small_maps(), st.integers(0, 2**32 - 1))
def test_a_draw_is_the_figure_of_the_pictures_drawn(pixels, seed):
    """Pictures repeated as often as they were drawn, and the ROC AUC of all of their pixels."""
    maps, masks = pixels
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(maps)))
    defect = np.count_nonzero(masks, (1, 2))
    found = drawn_areas(weights, count_pixels(maps, masks).wins, defect, maps[0].size)
    for area, times in zip(found, weights, strict=True):
        drawn = np.repeat(np.arange(len(maps)), times)
        labels = masks[drawn].ravel() > 0
        if labels.all() or not labels.any():
            assert np.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(labels, maps[drawn].ravel()), abs=1e-12)


def test_sums_that_float64_cannot_hold_are_exact():
    """As of gigapixel pictures: the same areas, in integers."""
    rng = np.random.default_rng(0)
    maps, masks = rng.integers(0, 9, (6, 4, 4)).astype(np.float32), rng.integers(0, 2, (6, 4, 4))
    wins, _, defect, size = pixels(maps, masks)
    weights = rng.integers(0, 3, (50, 6))
    factor = 2**23 - 5
    many = drawn_areas(weights, wins * factor**2, defect * factor, size * factor)
    np.testing.assert_allclose(many, drawn_areas(weights, wins, defect, size), rtol=1e-15)


def test_good_and_defective_pictures_are_drawn_apart():
    labels = np.array([0, 1, 0, 1, 1])
    weights = draws(labels)
    assert weights.shape == (DRAWS, 5) and (weights.sum(1) == 5).all() and (weights[:, labels == 0].sum(1) == 2).all()
    assert np.array_equal(weights, draws(labels))
    assert weights.mean(0) == pytest.approx(np.ones(5), abs=0.06)
    assert draws(np.ones(3))[:, :].sum(1).tolist() == [3] * DRAWS


def test_the_bootstrap_interval():
    """The percentiles of the areas of two thousand drawn test sets, every one evaluated from its pixels."""
    rng = np.random.default_rng(1)
    masks = np.zeros((9, 6, 6), np.uint8)
    masks[4:, 1:4, 2:4] = 1
    maps = (rng.normal(size=masks.shape) + masks + rng.normal(size=(9, 1, 1))).astype(np.float32)
    labels = masks.any((1, 2))
    found = evaluate_maps(maps, labels, masks)
    areas = []
    for times in draws(labels):
        drawn, is_defect = (np.repeat(each, times, axis=0) for each in (maps, masks > 0))
        areas.append(pairs_won(drawn[is_defect], drawn[~is_defect]).mean())
    assert found.pixel_interval == pytest.approx(np.percentile(areas, [2.5, 97.5]), abs=1e-12)
    low, high = found.pixel_interval
    assert low < found.pixel.rocauc < high
    np.testing.assert_array_equal(found.wins, by_definition(maps, masks))


def test_draws_without_a_defect_pixel_are_left_out():
    """One of two defective pictures has an empty mask, as where a crop cut the defect away: a quarter of the draws."""
    rng, masks = np.random.default_rng(0), np.zeros((4, 3, 3), np.uint8)
    masks[3, 0] = 1
    wins, _, defect, size = pixels(rng.normal(size=masks.shape).astype(np.float32), masks)
    labels = np.array([0, 0, 1, 1])
    areas = drawn_areas(draws(labels), wins, defect, size)
    assert 0.2 < np.isnan(areas).mean() < 0.3
    interval, reason = pixel_interval(wins, labels, defect, size)
    assert reason is None and interval == between(areas[~np.isnan(areas)])


def test_constants():
    assert lacking(np.array([0, 0, 1, 1])) is None
    assert abs(Z - norm.ppf(0.975)) < 1e-15
