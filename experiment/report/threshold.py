"""From which score on a picture is called defective, or a training picture does not seem to belong.

从多高的得分起，一张图算有缺陷，或一张训练图像算不合群。

The distance of a training image to its own Gaussian is bounded by (N − 1)/√N and says nothing about new images.
Its distance to the Gaussians of all others does (`padim.model.PaDiM.leave_one_out`): where no labelled test set tells,
a percentile of these scores is the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiment.files.folder import Store
from experiment.files.records import is_fitted_record
from system.errors import UserError
from system.files import read_json

PERCENTILE = 99.0
BEST_F1 = "best F1 on the labelled test set"
TEST_SET = ("image_threshold_raw", "threshold_raw", "score_min", "score_max")  # 测试集的数组里，阈值与颜色要的
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
        Scores of good images: of validation images, or the training images' left-out ones.
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


def find_thresholds(
    features: Path, record: dict[str, Any], given: float | None, percentile: float | None
) -> Thresholds:
    """The thresholds for pictures scored with stored features.

    Parameters
    ----------
    features : Path
        The pickle, within the result folder that main.py wrote; or what was exported from it.
    record : dict
        The JSON beside it; of an exported model its metadata, with ``test_set`` as of `read_test_set`.
    given : float, optional
        The decision threshold that the user wants.
    percentile : float, optional
        Of the good images' scores, even where a labelled test set has given a threshold.

    Raises
    ------
    UserError
        If ``percentile`` is given, and there are no scores of good images.

    Notes
    -----
    The decision threshold is the one given; else, unless a percentile is asked for, the one with the
    best F1 on the test set's image scores; else a percentile of the good images' scores. The pixel
    threshold is the one with the best F1 on the test set's pixels, else the decision threshold.
    """
    known = record["test_set"] if "test_set" in record else read_test_set(features, record)
    kind = "left-out training" if record["validation_scores"] is None else "validation"
    good = record["leave_one_out_scores"] if record["validation_scores"] is None else record["validation_scores"]
    if percentile is not None and good is None:
        raise UserError(
            f"{str(features)!r} has no left-out scores for --percentile: main.py makes them where there is no labelled "
            "test set, and with --leave_one_out; run it so, or give --threshold instead"
        )
    best, pixel, low, high = (known[key] for key in TEST_SET)
    if given is not None:
        decision, origin = given, "given"
    elif percentile is None and best is not None:
        decision, origin = best, BEST_F1
    elif good is not None:
        percentile = PERCENTILE if percentile is None else percentile
        decision = float(np.percentile(good, percentile))
        origin = f"{percentile:g}th percentile of {len(good)} {kind} scores"
    else:
        decision, origin = None, "none: give --threshold"
    test_range = None if low is None or high is None else (low, high)
    pixel = decision if pixel is None else pixel
    return Thresholds(decision, pixel, origin, test_range, len(record["dimensions"]), good)


def class_thresholds(store: Store, name: str, arrays: Mapping[str, Any]) -> Thresholds:
    """The thresholds of a class in its result folder: what predict.py takes, for figures, tables and page, too.

    Parameters
    ----------
    store : Store
    name : str
    arrays : mapping
        The small arrays of its test set; empty where it has none.
    """
    record = read_json(store.fitted(name).with_suffix(".json"))
    if not is_fitted_record(record):  # 没有存特征，或不是 PaDiM
        record = {"leave_one_out_scores": None, "validation_scores": None, "dimensions": [0]}
    return find_thresholds(store.fitted(name), record | {"test_set": _test_set(arrays)}, None, None)


def _test_set(arrays: Mapping[str, Any]) -> dict[str, float | None]:
    return {key: None if arrays.get(key) is None else float(arrays[key]) for key in TEST_SET}


def read_test_set(features: Path, record: dict[str, Any]) -> dict[str, float | None]:
    """What the result folder knows of the class's test set: `TEST_SET`, None where it knows nothing.

    Parameters are those of `find_thresholds`; where the pickle lies elsewhere, nothing is known.
    """
    features = features.absolute()  # 在其文件夹之内给出文件名也行
    store, name = Store(features.parent.parent, record["arch"]), features.stem.removeprefix("train_")
    return _test_set((store.read_arrays(name) if store.fitted(name) == features else None) or {})
