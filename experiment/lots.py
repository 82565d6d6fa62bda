"""Lots of training pictures, which are left out together: which there are, and what they say of new ones. No torch.

训练图像的批次：同一批的图像一起留出。分成哪几批，批次之间相差多少，新的批次会怎样。
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.folder import FolderDataset
from experiment.report.threshold import PERCENTILE, lots_that_stand_out, stands_out_from
from system.errors import UserError

SHOWN = 12  # 逐一说出的至多这么多
_FEW = 5  # 少于这么多批，批次间的差别无从估计
_NOMINAL, _APART = 95.0, 0.1  # 逐张留出时的这个百分位，按批留出后超出它的若有此比例（本应 0.05），就是批次有别


@dataclass(frozen=True)
class Lots:
    """How training pictures are grouped to be left out.

    Attributes
    ----------
    by : str or int
        ``one``: each picture is a group of its own; ``folder``; or how many consecutive pictures a group has.
    names : sequence of str
        The groups'.
    members : sequence of sequences of int
        The numbers of the groups' pictures.
    """

    by: str | int
    names: Sequence[str]
    members: Sequence[Sequence[int]]

    @property
    def largest(self) -> int:
        """How many pictures the largest group has."""
        return max(map(len, self.members))

    @property
    def record(self) -> dict[str, Any]:
        """What is stored with the scores."""
        return {"by": self.by, "groups": len(self.names)}

    def of_pictures(self) -> list[str]:
        """The name of every picture's group."""
        own = {picture: name for name, group in zip(self.names, self.members, strict=True) for picture in group}
        return [own[picture] for picture in sorted(own)]

    def share(self, rank: int, ranks: int) -> "OwnLots":
        """A rank's groups, those of one size together; all ranks have about as many pictures."""
        ordered, before = sorted(self.members, key=len), 0
        total = sum(map(len, ordered))
        mine = []
        for group in ordered:
            if before * ranks // total == rank:
                mine.append(group)
            before += len(group)
        return OwnLots(self, [picture for group in mine for picture in group], [len(group) for group in mine])


@dataclass(frozen=True)
class OwnLots:
    """One process's groups.

    Attributes
    ----------
    all : Lots
        Every process's.
    pictures : list of int
        The numbers of its pictures, group by group.
    sizes : list of int
        How many pictures each of its groups has.
    """

    all: Lots
    pictures: list[int]
    sizes: list[int]


def grouped(names: Sequence[str], folder: str, by: str | int) -> Lots:
    """Put training pictures into groups.

    Parameters
    ----------
    names : sequence of str
        POSIX paths below the class folder, in order.
    folder : str
        That of normal training pictures there: its folders of the first level are the groups, and pictures that lie in
        it directly are one more.
    by : str or int
        As `Lots.by`.
    """
    if by == "one":
        return Lots(by, names, [[i] for i in range(len(names))])
    if isinstance(by, int):
        parts = [range(start, min(start + by, len(names))) for start in range(0, len(names), by)]
        return Lots(by, [f"{names[part[0]]} to {names[part[-1]]}" for part in parts], parts)
    folders: dict[str, list[int]] = {}
    depth = folder.count("/") + 1  # 只看层数：各级的大小写可与 folder 不同
    for i, name in enumerate(names):
        *above, _ = name.split("/")
        folders.setdefault("/".join(above[: depth + 1]), []).append(i)
    return Lots(by, list(folders), list(folders.values()))


def choose(asked: str | int | None, name: str, names: Sequence[str], folder: str) -> tuple[Lots, str]:
    """How a class's training pictures are left out, and what is to be said of that.

    Parameters
    ----------
    asked : str or int, optional
        ``--leave_out``; by default by folders where there are any, else one by one.
    name : str
        The class.
    names, folder
        As for `grouped`.

    Raises
    ------
    UserError
        If groups are asked for, and there is but one, or one that leaves fewer than two pictures to the others.
    """
    alone = grouped(names, folder, "one")
    if asked == "one":
        return alone, ""
    lots = grouped(names, folder, asked or "folder")
    if asked is None and not any(name.count("/") > folder.count("/") for name in lots.names):
        return alone, ""  # 没有文件夹
    largest = max(range(len(lots.names)), key=lambda i: len(lots.members[i]))
    if len(lots.names) == 1:
        problem = f"all {len(names)} training pictures are one group"
    elif lots.largest > len(names) - 2:
        problem = f"{lots.names[largest]} holds {lots.largest} of {len(names)} training pictures"
    else:
        return lots, ""
    if asked is None:
        return alone, f"{problem}; they are left out one by one"
    raise UserError(f"--leave_out {asked}, class {name!r}: {problem}, and too few are left; give --leave_out one")


def to_leave_out(
    asked: str | int | None, name: str, train: FolderDataset, validation: FolderDataset, test: FolderDataset
) -> tuple[Lots | None, str]:
    """As `choose`; None where a class's training pictures are not scored as if left out.

    They are where that is ``asked`` for, and where nothing else gives a threshold: where there are no validation
    pictures, and no labelled test pictures.
    """
    if len(validation) or (test.is_labelled and asked is None):
        return None, ""
    if len(train) < 3:
        return None, "leaving one out needs three training pictures; there are no scores for a threshold"
    return choose(asked, name, train.names(), train.MARKS[0])


def remarks(lots: Lots, scores: list[float], alone: list[float], names: Sequence[str]) -> list[str]:
    """What left-out scores say, a line each.

    Parameters
    ----------
    lots : Lots
    scores, alone : list of float
        Of all training pictures, left out with their groups and alone.
    names : sequence of str
        The pictures'.
    """
    lines = []
    whole: set[int] = set()
    if lots.by != "one":
        lines += [_distance(lots, scores, alone)]
        own = lots.of_pictures()
        found = lots_that_stand_out(scores, own)
        whole = {i for i, lot in enumerate(own) if lot in found}
        listed = [f"{lot} (median {median:.1f})" for lot, median in found.items()]
        lines += _listing("lots that stand out as a whole", listed)
    limit = stands_out_from(scores)
    outside = [i for i in np.argsort(scores)[::-1] if limit is not None and scores[i] > limit and i not in whole]
    listed = [f"{names[i]} ({scores[i]:.1f})" for i in outside]
    lines += _listing(f"training pictures that stand out, with left-out scores above {limit or 0:.1f}", listed)
    return lines


def _listing(words: str, listed: list[str]) -> list[str]:
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return [f"{words}: {', '.join(listed[:SHOWN])}{more}"] if listed else []


def _distance(lots: Lots, scores: list[float], alone: list[float]) -> str:
    """How far the thresholds with and without the own lot lie apart, and what to do about that."""
    by_lots, by_one = (float(np.percentile(each, PERCENTILE)) for each in (scores, alone))
    words = f"{PERCENTILE:g}th percentile of the training pictures left out alone {by_one:.1f}, by lots {by_lots:.1f}: "
    are_apart = np.mean(np.array(scores) > np.percentile(alone, _NOMINAL)) > _APART
    words += "new lots will score higher than these pictures suggest" if are_apart else "the lots are much alike"
    total = sum(map(len, lots.members))
    if len(lots.names) < _FEW:
        return f"{words}; with {len(lots.names)} lots the threshold rests on little: photograph at least {_FEW}"
    if 2 * lots.largest > total:
        return f"{words}; one lot holds {lots.largest} of {total} pictures: the threshold rests on little"
    if are_apart:
        return f"{words}; the threshold by lots is for those; for new pictures of these very lots give --leave_out one"
    return words
