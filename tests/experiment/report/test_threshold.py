"""Which threshold decides, where it comes from, and how rare a score is."""

from pathlib import Path

import numpy as np
import pytest

from experiment.report.colours import colours_of
from experiment.report.threshold import Thresholds, find_thresholds
from experiment.report.threshold import test_set as known_of
from system.errors import UserError

RECORD = {"arch": "resnet18", "dimensions": [0] * 100, "validation_scores": None}
RECORD |= {"left_out_scores": [10.0, 11.0, 12.0, 13.0, 20.0]}
VALIDATED = RECORD | {"validation_scores": [1, 2, 3]}
NO_LABELS = dict.fromkeys(
    ("masks", "threshold", "threshold_raw", "image_threshold_raw", "image_roc", "pixel_roc", "pixel_pr", "pixel_pro")
)
NO_LABELS |= dict.fromkeys(("pixel_wins", "pixel_aupimo"))
NO_LABELS |= {
    "files": np.array(["test/good/0.png"]),
    "kinds": np.array(["good"]),
    "labels": np.zeros(1, np.int64),
    "image_scores": np.zeros(1),
}
NO_LABELS |= {"patches": np.zeros((1, 100), np.float32), "score_min": 2.0, "score_max": 40.0}
NO_LABELS |= {"image_score_min": 2.0, "image_score_max": 40.0}
TEST_SET = NO_LABELS | {"image_threshold_raw": 15.5, "threshold_raw": 12.25}


@pytest.mark.parametrize(
    ("arrays", "record", "given", "percentile", "wanted"),
    [
        (TEST_SET, RECORD, None, None, (15.5, 12.25, "best F1 on the labelled test set", 2, 40)),
        (TEST_SET, RECORD, 30.0, None, (30, 12.25, "given", 2, 40)),
        (TEST_SET, RECORD, None, 50.0, (12, 12.25, "50th percentile of 5 left-out training scores", 2, 40)),
        (NO_LABELS, RECORD, None, 100.0, (20, 20, "100th percentile of 5 left-out training scores", 2, 40)),
        (None, RECORD, None, None, (19.72, 19.72, "99th percentile of 5 left-out training scores", 0, 39.44)),
        (
            None,
            RECORD | {"validation_scores": [1, 2, 3]},
            None,
            None,
            (2.98, 2.98, "99th percentile of 3 validation scores", 0, 5.96),
        ),
        (None, RECORD | {"left_out_scores": None}, None, None, (None, None, "none: give --threshold", 0, 20)),
        (None, RECORD | {"left_out_scores": None}, 8.0, None, (8, 8, "given", 0, 16)),
    ],
)
def test_which_threshold(arrays, record, given, percentile, wanted):
    record = record | {"test_set": known_of(arrays or {})}
    found = find_thresholds(Path("train_x.pkl"), record, given, percentile)
    colours = colours_of(found, "class")
    for value, number in zip(
        (found.decision, found.pixel, colours.low, colours.high), wanted[:2] + wanted[3:], strict=True
    ):
        assert value == (None if number is None else pytest.approx(number))
    assert found.origin == wanted[2]


def test_a_percentile_of_nothing():
    with pytest.raises(UserError, match=r"'train_x\.pkl' has no left-out scores for --percentile.*--threshold"):
        find_thresholds(Path("train_x.pkl"), RECORD | {"left_out_scores": None, "test_set": None}, None, 99.0)


def test_the_threshold_itself_is_a_defect():
    """It is a test picture's score, the lowest that still counts, give or take the rounding."""
    thresholds = Thresholds(2.0, None, "")
    scores = [1.999, np.nextafter(np.float32(2), np.float32(0)), 2.0, 2.1]
    assert [thresholds.decide(s) for s in scores] == ["good", "defect", "defect", "defect"]
    assert Thresholds(None, None, "").decide(2.0) == ""


def test_how_rare_a_score_is():
    thresholds = Thresholds(None, None, "", good=[1.0, 2.0, 2.0, 5.0])
    assert [thresholds.p_value(score) for score in (0, 1, 2, 3, 5, 6)] == [1, 1, 0.8, 0.4, 0.4, 0.2]
    assert Thresholds(None, None, "").p_value(2.0) is None
