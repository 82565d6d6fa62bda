"""Scores of good pictures, for a threshold without labels: all scores, and the most unusual pictures with their maps.

好图的得分（训练图像的留一得分，或验证图像的得分），不用标签就能定阈值；最不寻常的几张图连同异常图一起留下。
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from datasets.preprocessing import to_pictures
from experiment.files.folder import Store
from experiment.files.records import read_fitted_record
from experiment.ranks import Ranks
from experiment.report.threshold import stands_out_from
from padim.model import Scores

SHOWN = 12  # 连图带异常图一起留下的张数


def those_that_stand_out(scores: list[float], names: list[str]) -> str:
    """A sentence that names the training pictures above `stands_out_from`; empty where there are none."""
    limit = stands_out_from(scores)
    outside = [] if limit is None else [i for i in np.argsort(scores)[::-1] if scores[i] > limit]
    if not outside:
        return ""
    listed = ", ".join(f"{names[i]} ({scores[i]:.1f})" for i in outside[:SHOWN])
    more = f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    return f"training pictures that stand out, with left-out scores above {limit:.1f}: {listed}{more}"


@dataclass(frozen=True)
class Unusual:
    """One picture: its number, score, map (H, W) float32, picture (H, W, 3) uint8."""

    index: int
    score: float
    map: np.ndarray
    picture: np.ndarray


class GoodScores:
    """Takes the scores of this rank's part of the pictures, in order.

    Parameters
    ----------
    start : int
        The number of the first of them.
    """

    def __init__(self, start: int):
        self._next = start
        self._scores: list[float] = []
        self._unusual: list[Unusual] = []
        self._waiting: list[np.ndarray] = []  # 已解码、还没有得分的图片

    def keep(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches as they are; their pictures are kept until the scores come."""
        for images in batches:
            self._waiting.extend(to_pictures(images.numpy()))
            yield images

    def append(self, scores: Scores) -> None:
        """Take the next block of scores."""
        pictures = self._waiting[: len(scores.maps)]
        del self._waiting[: len(scores.maps)]
        for score, one, picture in zip(scores.image_scores.tolist(), scores.maps, pictures, strict=True):
            if len(self._unusual) < SHOWN or score > self._unusual[-1].score:
                self._unusual = _most([*self._unusual, Unusual(self._next, score, one.copy(), picture.copy())])
            self._scores.append(score)
            self._next += 1

    def gather(self, ranks: Ranks) -> tuple[list[float], list[Unusual]]:
        """The scores of all ranks' pictures, in order, and the most unusual ones, those first (the leader)."""
        parts = ranks.to_leader((self._scores, self._unusual))
        return [s for scores, _ in parts for s in scores], _most([u for _, some in parts for u in some])


def _most(pictures: list[Unusual]) -> list[Unusual]:
    return sorted(pictures, key=lambda one: (-one.score, one.index))[:SHOWN]


def has_left_out(store: Store, name: str) -> bool:
    """Whether a class's left-out scores and its most unusual training pictures are stored beside its features."""
    if not store.left_out(name).exists():
        return False
    return read_fitted_record(store.fitted(name))["leave_one_out_scores"] is not None


def as_arrays(pictures: list[Unusual], names: list[str]) -> dict[str, np.ndarray]:
    """What `experiment.files.folder.Store.write_left_out` takes; ``names`` are those of all training pictures."""
    return {
        "files": np.array([names[one.index] for one in pictures]),
        "scores": np.array([one.score for one in pictures]),
        "maps": np.stack([one.map for one in pictures]),
        "images": np.stack([one.picture for one in pictures]),
    }
