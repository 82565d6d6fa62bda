from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from experiment.files.arrays import arrays_of, row_of
from padim.counts import Counts, count_pixels
from padim.curves import MAX_POINTS, TOLERANCE, thin
from padim.metrics import evaluate, evaluate_maps, evaluate_scores, normalise
from system.errors import UserError


def best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """The original code's threshold."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    a, b = 2 * precision * recall, precision + recall
    return thresholds[np.argmax(np.divide(a, b, out=np.zeros_like(a), where=b != 0)[:-1])]


def data(kind: str, n: int = 30_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    labels = rng.random(n) < 0.05
    scores = (rng.gamma(4, 1, n) + 3 * labels).astype(np.float32)
    if kind == "ties":
        scores = np.round(scores)
    if kind == "negative":
        scores = scores - 6
    return labels, scores


@pytest.mark.parametrize("kind", ["distinct", "ties", "negative"])
def test_figures_are_scikit_learns(kind):
    labels, scores = data(kind)
    result = evaluate_scores(scores, labels)
    assert result.rocauc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result.ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert result.threshold == best_f1(labels, scores)
    assert result.f1 == f1_score(labels, scores >= result.threshold)


def test_a_perfect_and_an_inverted_ranking():
    labels = np.array([0, 0, 1, 1])
    assert evaluate_scores(np.float32([1, 2, 3, 4]), labels).rocauc == 1
    assert evaluate_scores(np.float32([4, 3, 2, 1]), labels).rocauc == 0
    assert evaluate_scores(np.float32([1, 1, 1, 1]), labels).rocauc == 0.5
    assert evaluate_scores(np.float32([0, -0.0, 0, -0.0]), labels).rocauc == 0.5
    assert evaluate_scores(np.float32([1, 2, 3, 4]), labels).threshold == 3


@pytest.mark.parametrize("labels", [np.zeros(4), np.ones(4)])
def test_one_kind_of_label_is_not_available(labels):
    assert evaluate_scores(np.float32([1, 2, 3, 4]), labels) is None


def distance_to_polyline(points: np.ndarray, line: np.ndarray) -> float:
    worst = 0.0
    for chunk in np.array_split(points, max(1, len(points) // 200)):
        a, d = line[:-1], np.diff(line, axis=0)
        t = ((chunk[:, None] - a) * d).sum(-1) / np.maximum((d * d).sum(-1), 1e-300)
        nearest = a + np.clip(t, 0, 1)[..., None] * d
        worst = max(worst, np.sqrt(((chunk[:, None] - nearest) ** 2).sum(-1)).min(1).max())
    return worst


def test_stored_curves_stay_close_to_the_exact_ones():
    labels, scores = data("distinct", 200_000)
    result = evaluate_scores(scores, labels)
    fpr, tpr, _ = roc_curve(labels, scores)
    assert len(result.roc) <= MAX_POINTS and len(result.pr) <= MAX_POINTS
    assert distance_to_polyline(np.column_stack([fpr, tpr])[::7], result.roc) <= TOLERANCE
    assert np.trapezoid(result.roc[:, 1], result.roc[:, 0]) == pytest.approx(result.rocauc, abs=1e-4)
    assert result.roc[0].tolist() == [0, 0] and result.roc[-1].tolist() == [1, 1]
    assert result.pr[0].tolist() == [0, 1] and result.pr[-1][0] == 1


def test_a_short_curve_is_kept_whole():
    curve = np.random.default_rng(0).random((MAX_POINTS, 2))
    assert thin(curve) is curve


def test_evaluate_maps():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 20, 20), np.uint8)
    masks[3:, 5:9, 5:9] = 1
    maps = (rng.random((6, 20, 20)) + masks).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = evaluate_maps(maps, labels, masks)
    arrays, row = arrays_of(found, [], [], labels, masks, np.empty(0)), row_of(found, {}, None, "")
    assert row["image_rocauc"] == 1
    assert row["pixel_rocauc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    scores = normalise(maps, arrays["score_min"], arrays["score_max"])
    assert (scores.min(), scores.max()) == (0, 1)
    np.testing.assert_allclose(arrays["image_scores"], scores.max((1, 2)))
    np.testing.assert_array_equal(scores > row["threshold"] - 1e-7, maps >= arrays["threshold_raw"])
    assert arrays["image_threshold_raw"] == maps.max((1, 2))[3:].min()


def test_evaluate_maps_without_masks_or_with_one_label():
    maps = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    found = evaluate_maps(maps, np.array([0, 0, 1, 1]), None)
    assert found.pixel is found.threshold is found.overlap is found.wins is None
    assert found.image is not None and "no pixel figures of merit: there are no masks" in found.remarks
    row = row_of(evaluate_maps(maps, np.zeros(4), np.zeros((4, 8, 8))), {}, None, "")
    assert row.pop("remarks") == [
        "no image figures of merit: all test pictures are good",
        "no pixel figures of merit: all pixels of the masks are alike",
    ]
    assert row.pop("threshold_origin") == "" and len(row) == 13 and set(row.values()) == {None}


def test_constant_and_infinite_maps():
    maps = np.full((2, 4, 4), 3, np.float32)
    found, labels = evaluate_maps(maps, np.array([0, 1]), None), np.array([0, 1])
    arrays = arrays_of(found, [], [], labels, None, np.empty(0))
    assert arrays["image_scores"].tolist() == [0, 0] and found.image.rocauc == 0.5
    maps[0, 0, 0] = np.nan
    with pytest.raises(UserError):
        evaluate_maps(maps, np.array([0, 1]), None)


@st.composite
def scored_pixels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Small maps full of ties, also constant ones; one defect pixel and one normal pixel at least."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 5)))
    count = int(np.prod(shape))
    highest = draw(st.sampled_from([0, 1, 3, 10**6]))
    scores = draw(st.lists(st.integers(-highest, highest), min_size=count, max_size=count))
    defects = draw(st.sampled_from([1, count - 1]) | st.integers(1, count - 1))  # 只有一个缺陷像素、一个正常像素
    labels = draw(st.permutations([1] * defects + [0] * (count - defects)))
    return np.float32(scores).reshape(shape) / np.float32(7), np.uint8(labels).reshape(shape)


@settings(deadline=None, max_examples=150)
@given(scored_pixels())
def test_any_pixels_are_scored_as_scikit_learn_does(pixels):
    maps, masks = pixels
    labels, scores = masks.ravel(), maps.ravel()
    pixel = evaluate_maps(maps, masks.any((1, 2)), masks).pixel
    assert pixel.rocauc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert pixel.ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    figures = {t: f1_score(labels, scores >= t) for t in np.unique(scores)}
    assert pixel.f1 == pytest.approx(max(figures.values()), abs=1e-12)
    best = [t for t, f1 in figures.items() if f1 == pytest.approx(pixel.f1, abs=1e-12)]
    assert pixel.threshold == min(best)
    roc, pr = pixel.roc, pixel.pr
    assert np.trapezoid(roc[:, 1], roc[:, 0]) == pytest.approx(pixel.rocauc, abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert distance_to_polyline(np.column_stack([recall, precision])[:-1], pr) < 1e-12


@settings(deadline=None, max_examples=100)
@given(scored_pixels(), st.integers(1, 6))
def test_the_size_of_a_chunk_does_not_matter(pixels, chunk):
    maps, masks = pixels
    wanted, found = count_pixels(maps, masks), count_pixels(maps, masks, chunk)
    for key, value in vars(wanted).items():
        assert np.array_equal(value, getattr(found, key)), key


@pytest.mark.lowest
@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
def test_mapped_files_of_more_pictures_than_are_read_at_a_time(tmp_path, kind):
    rng, shape = np.random.default_rng(0), (150, 30, 70)
    masks = np.zeros(shape, np.uint8)
    maps = np.lib.format.open_memmap(tmp_path / "maps.npy", "w+", np.float32, shape)
    for k in range(40, 150):
        y, x = rng.integers(0, 20, 2)
        masks[k, y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = 1
        masks[k, 25:, 60:] = k % 3 == 0
    maps[:] = rng.gamma(4, 1, shape) + 2 * masks - 3
    if kind == "ties":
        maps[:] = np.round(maps)
    if kind == "constant":
        maps[:] = 5
    labels, maps = masks.any((1, 2)), np.load(tmp_path / "maps.npy", mmap_mode="r")
    found, whole = evaluate_maps(maps, labels, masks), evaluate_maps(np.array(maps), labels, masks)
    assert row_of(found, {}, None, "") == row_of(whole, {}, None, "")
    assert found.pixel.rocauc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found.pixel.ap == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    for some in (np.zeros(shape, np.uint8), np.ones(shape, np.uint8)):  # 只有一种像素
        found = evaluate_maps(maps, labels, some)
        assert found.pixel is found.overlap is found.threshold is found.wins is None


def test_sums_beyond_64_bits_are_exact():
    """As of a test set of a hundred thousand megapixel pictures."""
    few = Counts(
        *(np.float32([1, 2]), np.array([3, 5]), np.zeros(2), np.array([10, 20]), np.array([4, 0])),
        *(8, 40, np.array([8]), np.array([[0]])),
    )
    many = replace(
        few,
        **{key: getattr(few, key) << 33 for key in ("defect", "below", "equal", "positive", "negative")},
    )
    assert evaluate(many).rocauc == evaluate(few).rocauc == (3 * 12 + 5 * 20) / (8 * 40)
