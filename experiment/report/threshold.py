"""From which score on a picture is called defective, or a training picture does not seem to belong.

从多高的得分起，一张图算有缺陷，或一张训练图像算不合群。

The distance of a training picture to its own Gaussian is bounded by (N − 1)/√N and says nothing about new ones.
Its distance to the Gaussians of all others, or of all other lots, does (`padim.model.PaDiM.leave_out`): where no
labelled test set tells, a percentile of these scores is the threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiment.files.folder import Store
from experiment.files.records import TEST_SET, is_fitted_record
from system.errors import UserError
from system.files import read_json

PERCENTILE = 99.0
BEST_F1 = "best F1 on the labelled test set"
DEVIATIONS = 5  # 高出中位数这么多个稳健标准差的训练图像，算不合群
_ROBUST = 1.4826  # 正态分布的标准差与中位数绝对偏差之比
ROUNDING = 1e-4  # 相对；同一张图的得分因批大小、线程数、PyTorch 或 ONNX 而有的舍入差，至多如此


@dataclass(frozen=True)
class Thresholds:
    """What divides raw scores.

    Attributes
    ----------
    decision : float or None
        A picture whose score is at least this is a defect; None where nothing is known.
    pixel : float or None
        Pixels above it are the predicted mask.
    origin : str
        Where ``decision`` is from, in words.
    test_range : (float, float), or None
        The least and the largest pixel score of the class's test set, where it has one.
    dimensions : int
        d, of the embeddings.
    good : list of float or None
        Scores of good pictures: of validation pictures, or the left-out scores of training pictures.
    """

    decision: float | None
    pixel: float | None
    origin: str
    test_range: tuple[float, float] | None = None
    dimensions: int = 1
    good: list[float] | None = None

    def decide(self, score: float | np.floating) -> str:
        """``defect`` from the decision threshold on, else ``good``; empty where there is no threshold."""
        if self.decision is None:
            return ""
        # 阈值往往就是某张图自己的得分：再算一遍，不因舍入而改判
        return "defect" if score >= self.decision * (1 - ROUNDING) else "good"

    def p_value(self, score: float) -> float | None:
        """How rare such a score is among good pictures: (1 + scores ≥ it) / (n + 1); None without them."""
        if self.good is None:
            return None
        return (1 + sum(other >= score for other in self.good)) / (len(self.good) + 1)


def stands_out_from(scores: list[float]) -> float | None:
    """The score above which a training picture does not seem to belong: median + 5 · 1.4826 · MAD.

    Returns
    -------
    float or None
        None where half of the scores are equal: no deviation can be told then.
    """
    median = float(np.median(scores))
    deviation = _ROBUST * float(np.median(np.abs(np.asarray(scores) - median)))
    return median + DEVIATIONS * deviation if deviation > 0 else None


def lots_that_stand_out(scores: Sequence[float], lots: Sequence[str]) -> dict[str, float]:
    """The lots that do not seem to belong, those with the highest scores first, and their median scores.

    Parameters
    ----------
    scores : sequence of float
        The training pictures' left-out scores.
    lots : sequence of str
        Their lots.

    Notes
    -----
    A lot does not belong where its median is above `stands_out_from` of the pictures of all other lots.
    """
    each, own = np.asarray(scores), np.asarray(lots)
    found = {}
    for lot in dict.fromkeys(lots):
        median, limit = float(np.median(each[own == lot])), stands_out_from(each[own != lot].tolist())
        if limit is not None and median > limit:
            found[str(lot)] = median
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def how_left_out(record: dict[str, Any]) -> str:
    """``by folders, 12 groups``; empty where each training picture was left out alone."""
    known = record.get("left_out")
    if known is None or known["by"] == "one":
        return ""
    by = "folders" if known["by"] == "folder" else f"blocks of {known['by']}"
    return f"by {by}, {known['groups']} groups"


def find_thresholds(
    features: Path, record: dict[str, Any], given: float | None, percentile: float | None
) -> Thresholds:
    """The thresholds for pictures scored with stored features.

    Parameters
    ----------
    features : Path
        The pickle, or what was exported from it, for the message.
    record : dict
        The JSON beside it; of an exported model its metadata.
    given : float, optional
        The decision threshold that the user wants.
    percentile : float, optional
        Of the good pictures' scores, even where a labelled test set has given a threshold.

    Raises
    ------
    UserError
        If ``percentile`` is given, and there are no scores of good pictures.

    Notes
    -----
    The decision threshold is the one given; else, unless a percentile is asked for, the one with the
    best F1 on the test set's image scores; else a percentile of the good pictures' scores. The pixel
    threshold is the one with the best F1 on the test set's pixels, else the decision threshold.
    """
    known = record["test_set"] or dict.fromkeys((*TEST_SET, "origin"))
    good, kind = record["validation_scores"], "validation scores"
    if good is None:
        good, how = record["left_out_scores"], how_left_out(record)
        kind = f"training scores, left out {how}" if how else "left-out training scores"
    if percentile is not None and good is None:
        raise UserError(
            f"{str(features)!r} has no left-out scores for --percentile: main.py makes them where there is no labelled "
            "test set, and with --leave_out; run it so, or give --threshold instead"
        )
    best, pixel, low, high = (known[key] for key in TEST_SET)
    decision: float | None
    if given is not None:
        decision, origin = given, "given"
    elif percentile is None and best is not None:
        decision, origin = best, known["origin"] or BEST_F1
    elif good is not None:
        percentile = PERCENTILE if percentile is None else percentile
        decision = float(np.percentile(good, percentile))
        origin = f"{percentile:g}th percentile of {len(good)} {kind}"
    else:
        decision, origin = None, "none: give --threshold"
    pixel = decision if pixel is None else pixel
    test_range = None if low is None or high is None else (low, high)
    return Thresholds(decision, pixel, origin, test_range, len(record["dimensions"]), good)


def class_thresholds(store: Store, name: str, arrays: Mapping[str, Any]) -> Thresholds:
    """The thresholds of a class in its result folder, for figures, tables and the page: those that predict.py takes.

    Parameters
    ----------
    store : Store
    name : str
    arrays : mapping
        The small arrays of its test set; empty where it has none.
    """
    record = read_json(store.fitted(name).with_suffix(".json"))
    return thresholds_of(store.fitted(name), record if is_fitted_record(record) else None, arrays)


def thresholds_of(features: Path, record: dict[str, Any] | None, arrays: Mapping[str, Any]) -> Thresholds:
    """As `class_thresholds`, from the content of the JSON beside the pickle; None where no features are stored."""
    known = record or {"left_out_scores": None, "validation_scores": None, "dimensions": [0]}
    return find_thresholds(features, known | {"test_set": test_set(arrays)}, None, None)


def test_set(arrays: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the JSON beside a pickle keeps of a class's test set, from its arrays; None where they are none."""
    if not arrays:
        return None
    known = {key: None if arrays.get(key) is None else float(arrays[key]) for key in TEST_SET}
    return known | {"origin": None if known["image_threshold_raw"] is None else BEST_F1}
