"""Held-out training images: scored before they are merged, and merged as if nothing had happened."""

import numpy as np
import pytest
import torch

from experiment.records import read_fitted_record
from experiment.saving import load, save
from experiment.store import Store
from experiment.threshold import Thresholds, find_thresholds, hold_out
from padim import EPSILON
from padim.extraction import BLOCK
from padim.gaussian import GaussianStream
from padim.mahalanobis import Gaussians
from padim.model import PaDiM
from system.errors import UserError


@pytest.mark.parametrize(("count", "held"), [(10, 5), (49, 5), (55, 6), (209, 21)])
def test_a_tenth_in_a_seeded_order(count, held):
    first, second = hold_out(count, 1024)
    assert len(second) == held and sorted(first + second) == list(range(count))
    assert hold_out(count, 1024) == (first, second) != hold_out(count, 1)


def test_too_few_to_hold_out():
    assert hold_out(9, 1024) is None


def test_distances_to_an_unfinished_stream():
    """The textbook's distances, and the stream is as if nobody had asked."""
    rng = torch.Generator().manual_seed(0)
    seen, new = (torch.randn(300, n, 5, generator=rng) * torch.arange(1, 6) for n in (12, 7))
    stream, undisturbed = (GaussianStream(300, 5, torch.device("cpu")) for _ in range(2))
    for each in (stream, undisturbed):
        each.update(seen[:, :8])
        each.update(seen[:, 8:])
    distances = stream.distances(new)
    for p in (0, 150, 299):
        inverse = np.linalg.inv(np.cov(seen[p].double().numpy(), rowvar=False) + EPSILON * np.eye(5))
        deviations = (new[p] - seen[p].mean(0)).double().numpy()
        wanted = np.sqrt(np.einsum("nd,de,ne->n", deviations, inverse, deviations))
        np.testing.assert_allclose(distances[p], wanted, rtol=1e-4)
    for a, b in zip(stream.finish(), undisturbed.finish(), strict=True):
        assert torch.equal(a, b)


def test_held_out_images_are_scored_by_the_others_and_then_merged():
    """More held-out images than a block: all are scored before the first is merged."""
    model = PaDiM("resnet18", "random", dimensions=8, size=(32, 32))
    rng = torch.Generator().manual_seed(0)
    fitted, held = torch.randn(20, 3, 32, 32, generator=rng), torch.randn(BLOCK + 12, 3, 32, 32, generator=rng)
    model.fit([fitted])
    wanted = np.concatenate([s.maps.max((1, 2)) for s in model.score(held.split(32))])
    assert model.held_out_scores is None
    model.fit([torch.cat([fitted, held])])
    mean, covariance = (t.clone() for t in model.state())
    model.fit([fitted], held.split(50))
    np.testing.assert_allclose(model.held_out_scores, wanted, rtol=1e-4)
    assert model.count == 160
    for found, wanted in zip(model.state(), (mean, covariance), strict=True):
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert model.fit([fitted]).held_out_scores is None


def test_the_final_gaussian_scores_alike(tmp_path):
    """Against a factor of the plain fit, and through a file."""
    model = PaDiM("resnet18", "random", dimensions=8, size=(32, 32))
    images = torch.randn(25, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model.fit([images])
    plain = Gaussians(*(t.clone() for t in model.state()))
    model.fit([images[:20]], [images[20:]])
    save(model, tmp_path / "x.pkl", preprocessing={}, training_files="0")
    load(other := PaDiM("resnet18", "random", dimensions=8, size=(32, 32)), tmp_path / "x.pkl")
    stored = read_fitted_record(tmp_path / "x.pkl")["held_out_scores"]
    assert stored == model.held_out_scores and len(stored) == 5
    block = next(model._blocks([images]))
    found = Gaussians(*other.state()).distances(block)
    assert (found / plain.distances(block) - 1).abs().max() < 1e-4


RECORD = {"arch": "resnet18", "dimensions": [0] * 100, "held_out_scores": [10.0, 11.0, 12.0, 13.0, 20.0]}
NO_LABELS = dict.fromkeys(
    ("masks", "threshold", "threshold_raw", "image_threshold_raw", "image_roc", "pixel_roc", "pixel_pr", "pixel_pro")
)
NO_LABELS |= {
    "files": np.array(["test/good/0.png"]),
    "kinds": np.array(["good"]),
    "labels": np.zeros(1, np.int64),
    "image_scores": np.zeros(1),
}
NO_LABELS |= {"patches": np.zeros((1, 100), np.float32), "score_min": 2.0, "score_max": 40.0}
TEST_SET = NO_LABELS | {"image_threshold_raw": 15.5, "threshold_raw": 12.25}


@pytest.mark.parametrize(
    ("arrays", "record", "given", "percentile", "wanted"),
    [
        (TEST_SET, RECORD, None, None, (15.5, 12.25, "best F1 on the labelled test set", 2, 40)),
        (TEST_SET, RECORD, 30.0, None, (30, 12.25, "given", 2, 40)),
        (TEST_SET, RECORD, None, 50.0, (12, 12.25, "50th percentile of 5 held-out training scores", 2, 40)),
        (NO_LABELS, RECORD, None, 100.0, (20, 20, "100th percentile of 5 held-out training scores", 2, 40)),
        (None, RECORD, None, None, (19.72, 19.72, "99th percentile of 5 held-out training scores", 0, 39.44)),
        (None, RECORD | {"held_out_scores": None}, None, None, (None, None, "none: give --threshold", 0, 20)),
        (None, RECORD | {"held_out_scores": None}, 8.0, None, (8, 8, "given", 0, 16)),
    ],
)
def test_which_threshold(tmp_path, arrays, record, given, percentile, wanted):
    store = Store(tmp_path, "resnet18")
    if arrays:
        store.write_arrays("x", arrays)
    found = find_thresholds(store.fitted("x"), record, given, percentile)
    for value, number in zip(
        (found.decision, found.pixel, found.low, found.high), wanted[:2] + wanted[3:], strict=True
    ):
        assert value == (None if number is None else pytest.approx(number))
    assert found.origin == wanted[2]


def test_a_pickle_elsewhere_and_a_percentile_of_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path, "resnet18")
    store.write_arrays("x", TEST_SET)
    assert find_thresholds(tmp_path / "train_x.pkl", RECORD, None, None).low == 0
    store.fitted("x").parent.mkdir()
    monkeypatch.chdir(store.fitted("x").parent)
    relative = store.fitted("x").relative_to(store.fitted("x").parent)
    assert find_thresholds(relative, RECORD, None, None).decision == 15.5
    with pytest.raises(UserError, match=r"no held-out scores for --percentile.*--threshold"):
        find_thresholds(store.fitted("x"), RECORD | {"held_out_scores": None}, None, 99.0)


def test_the_threshold_itself_is_a_defect():
    """It is a test picture's score, the lowest that still counts, give or take the rounding."""
    thresholds = Thresholds(2.0, None, "", 0, 1)
    scores = [1.999, np.nextafter(np.float32(2), np.float32(0)), 2.0, 2.1]
    assert [thresholds.decide(s) for s in scores] == ["good", "defect", "defect", "defect"]
    assert Thresholds(None, None, "", 0, 1).decide(2.0) == ""
