"""From which score on a picture is called defective.

从多高的得分起，一张图算有缺陷。

The distance of a training image to its own Gaussian is bounded by (N − 1)/√N and says nothing about
new images. Where no labelled test set tells, some training images are held out for it.
"""

import random
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from experiment.store import Store
from system.errors import UserError

FEWEST = 5  # 留出的图片至少这么多
PERCENTILE = 99.0
ROUNDING = 1e-5  # 相对；同一张图的得分因批大小、线程数而有的舍入差


def hold_out(count: int, seed: int) -> tuple[list[int], list[int]] | None:
    """Divide the training images: 90 % to fit, 10 % (at least five) to score, in a seeded order.

    Returns
    -------
    fitted, held : list of int
        Indices; None for fewer than ten images, of which more would be held out than are fitted.
    """
    if count < 2 * FEWEST:
        return None
    order = random.Random(seed).sample(range(count), count)
    held = max(FEWEST, round(count / 10))
    return order[:-held], order[-held:]


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
    low, high : float
        The ends of the colour scale.
    """

    decision: float | None
    pixel: float | None
    origin: str
    low: float
    high: float

    def decide(self, score: float) -> str:
        """``defect`` from the decision threshold on, else ``good``; empty where there is no threshold."""
        if self.decision is None:
            return ""
        # 阈值往往就是某张图自己的得分：再算一遍，不因舍入而改判
        return "defect" if score >= self.decision * (1 - ROUNDING) else "good"


def find_thresholds(
    features: Path, record: dict[str, Any], given: float | None, percentile: float | None
) -> Thresholds:
    """The thresholds for pictures scored with stored features.

    Parameters
    ----------
    features : Path
        The pickle, within the result folder that main.py wrote.
    record : dict
        The JSON beside it.
    given : float, optional
        The decision threshold that the user wants.
    percentile : float, optional
        Of the held-out scores, even where a labelled test set has given a threshold.

    Raises
    ------
    UserError
        If ``percentile`` is given, and no image was held out.

    Notes
    -----
    The decision threshold is the one given; else, unless a percentile is asked for, the one with the
    best F1 on the test set's image scores; else a percentile of the held-out scores. The pixel
    threshold is the one with the best F1 on the test set's pixels, else the decision threshold. The
    colours span the test set's scores; else 0 to twice the decision threshold; else 0 to 2√d, since a
    normal patch's squared distance is d on average.
    """
    arrays = _test_set(features, record)
    held_out = record.get("held_out_scores")
    if percentile is not None and not held_out:
        raise UserError(
            f"{str(features)!r} has no held-out scores for --percentile: they are made where there is no labelled "
            f"test set, and at least {2 * FEWEST} training pictures; give --threshold instead"
        )
    best = arrays.get("image_threshold_raw")
    if given is not None:
        decision, origin = given, "given"
    elif percentile is None and best is not None:
        decision, origin = float(best), "best F1 on the labelled test set"
    elif held_out:
        percentile = PERCENTILE if percentile is None else percentile
        decision = float(np.percentile(held_out, percentile))
        origin = f"{percentile:g}th percentile of {len(held_out)} held-out training scores"
    else:
        decision, origin = None, "none: give --threshold"
    pixel = arrays.get("threshold_raw")
    low, high = (arrays.get(key) for key in ("score_min", "score_max"))
    if low is None or high is None or not high > low:
        low, high = 0.0, 2 * (decision if decision and decision > 0 else sqrt(len(record["dimensions"])))
    return Thresholds(decision, decision if pixel is None else float(pixel), origin, float(low), float(high))


def _test_set(features: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What the result folder knows of the class's test set; empty where the pickle lies elsewhere."""
    features = features.absolute()  # 在其文件夹之内给出文件名也行
    store, name = Store(features.parent.parent, record["arch"]), features.stem.removeprefix("train_")
    return (store.read_arrays(name) if store.fitted(name) == features else None) or {}
