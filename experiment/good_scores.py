"""Scores of good pictures, for a threshold without labels: all scores, and the most unusual pictures with their maps.

好图的得分（训练图像留出后的得分，或验证图像的得分），不用标签就能定阈值；最不寻常的几张图连同异常图一起留下。
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.preprocessing import to_pictures
from datasets.region import fingerprint
from experiment.files.region import from_text, to_text
from experiment.lots import SHOWN, Lots
from experiment.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor

    from padim.model import Scores


@dataclass(frozen=True)
class Unusual:
    """One picture: its number, score, map (H, W) float32, picture (H, W, 3) uint8."""

    index: int
    score: float
    map: np.ndarray
    picture: np.ndarray


@dataclass(frozen=True)
class Gathered:
    """The scores of all pictures, in order; of left-out ones also ``alone``; the most unusual pictures, those first."""

    scores: list[float]
    alone: list[float]
    unusual: list[Unusual]

    def record(self, lots: Lots | None) -> dict[str, Any]:
        """What stands beside the pickle: of training pictures left out in these groups, or of validation pictures."""
        if lots is None:
            return {"validation_scores": self.scores}
        alone = None if lots.by == "one" else self.alone
        return {"left_out_scores": self.scores, "left_out": lots.record, "left_out_alone_scores": alone}

    def arrays(self, names: list[str], lots: Lots) -> dict[str, np.ndarray | None]:
        """What `experiment.files.folder.Store.write_left_out` takes; ``names`` are those of all training pictures."""
        return {
            "lots": None if lots.by == "one" else np.array(lots.of_pictures()),
            "files": np.array([names[one.index] for one in self.unusual]),
            "scores": np.array([one.score for one in self.unusual]),
            "maps": np.stack([one.map for one in self.unusual]),
            "images": np.stack([one.picture for one in self.unusual]),
        }


class GoodScores:
    """Takes the scores of this rank's part of the pictures.

    Parameters
    ----------
    pictures : sequence of int
        Their numbers, in the order in which they come.
    """

    def __init__(self, pictures: Sequence[int]):
        self._numbers = iter(pictures)
        self._scores: dict[int, float] = {}
        self._alone: dict[int, float] = {}
        self._unusual: list[Unusual] = []
        self._waiting: deque[tuple[int, np.ndarray]] = deque()  # 已解码、还没有得分的：编号与图片

    def keep(self, batches: Iterable["Tensor"]) -> Iterator["Tensor"]:
        """The batches as they are; their pictures are kept until the scores come."""
        for images in batches:
            self._waiting.extend((next(self._numbers), picture) for picture in to_pictures(images.numpy()))
            yield images

    def append(self, scores: "Scores") -> None:
        """Take the next block of scores."""
        waited = [self._waiting.popleft() for _ in scores.maps]
        for (i, picture), score, one in zip(waited, scores.image_scores.tolist(), scores.maps, strict=True):
            if len(self._unusual) < SHOWN or score > self._unusual[-1].score:
                self._unusual = _most([*self._unusual, Unusual(i, score, one.copy(), picture.copy())])
            self._scores[i] = score
        if scores.alone is not None:
            self._alone |= zip((i for i, _ in waited), scores.alone.tolist(), strict=True)

    def gather(self, ranks: Ranks) -> Gathered:
        """The scores of all ranks' pictures, on the leader."""
        parts, unusual = ranks.to_leader((self._scores, self._alone)), ranks.to_leader(self._unusual)
        scores = [score for _, score in sorted(item for own, _ in parts for item in own.items())]
        alone = [score for _, score in sorted(item for _, own in parts for item in own.items())]
        return Gathered(scores, alone, _most([one for some in unusual for one in some]))


def _most(pictures: list[Unusual]) -> list[Unusual]:
    return sorted(pictures, key=lambda one: (-one.score, one.index))[:SHOWN]


def outdated(record: dict[str, Any] | None, region: np.ndarray | None) -> dict[str, Any]:
    """What takes the place of the scores beside a pickle, if there are any and they are of another region (H, W)."""
    if record is None or fingerprint(from_text(record["region"])) == fingerprint(region):
        return {}
    scores = "left_out_scores", "left_out", "left_out_alone_scores", "validation_scores"
    return dict.fromkeys(scores) | {"region": to_text(region)}  # 高斯与区域无关，得分有关


def left_out_by(record: dict[str, Any]) -> str | int | None:
    """How the scores beside a pickle were left out (`Lots.by`), if they were."""
    return (record["left_out"] or {}).get("by")
