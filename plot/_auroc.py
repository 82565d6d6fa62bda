"""ROC AUC of every class and model, from one result folder or from several that differ in the seed alone.

各类、各模型的 ROC AUC；结果文件夹可以有多个，只是种子不同。
"""

import _root  # noqa: F401, I001

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from _results import Results, check_same_pictures, open_results, place

from datasets.mvtec import OBJECTS, TEXTURES
from experiment.report import style
from experiment.files.records import LEVELS
from system.errors import UserError

GROUPS = {"textures": TEXTURES, "objects": OBJECTS, "all": None}  # 求平均的类别；None：每一类
Column = tuple[str, str]  # (level, key)


@dataclass(frozen=True)
class Cell:
    """A cell of the table: our values, one for each result folder, the published one and perhaps our interval."""

    values: list[float]
    published: float | None
    interval: list[float] | None = None

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def __str__(self) -> str:
        reach = "" if self.interval is None else f" [{', '.join(map(_three_digits, self.interval))}]"
        return _three_digits(self.mean) + ("" if self.deviation is None else f" ± {self.deviation:.3f}") + reach


def level_label(level: str, say: style.Say) -> str:
    """What a level is called."""
    return {"image": say("image", "图像级"), "pixel": say("pixel", "像素级")}[level]


def _three_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Table:
    """The table ``cells[row][level, key]``, whose rows are the classes and then the averages that exist.

    Attributes
    ----------
    counts : dict
        Result folders of each model, by its key.
    classes, groups : list of str
        Rows.
    apart : set of str
        The groups without an average at some level, since the models' averages there are over different classes.
    cells : dict
    """

    counts: dict[str, int]
    classes: list[str]
    groups: list[str]
    apart: set[str]
    cells: dict[str, dict[Column, Cell]]

    @property
    def several(self) -> bool:
        return max(self.counts.values()) > 1

    @property
    def columns(self) -> list[Column]:
        """Image level, then pixel level; a model that has no metric at a level has no column there."""
        every = [(level, key) for level in LEVELS for key in self.counts]
        return [column for column in every if any(row[column].values for row in self.cells.values())]

    def at(self, level: str) -> list[str]:
        """The models that have metrics at a level."""
        return [key for each, key in self.columns if each == level]

    @property
    def published(self) -> list[str]:
        """The rows that have a published metric."""
        return [name for name, row in self.cells.items() if any(cell.published is not None for cell in row.values())]

    def printed(self, name: str, published: bool = False) -> list[tuple[str, bool]]:
        """A row's metrics, ours or the published ones, and which of them are the best at their level."""
        cells = [self.cells[name][column] for column in self.columns]
        values = [cell.published if published else cell.mean for cell in cells]
        rounded = [None if value is None else round(value, 3) for value in values]  # 印出的位数上并列的，都是最好
        found = []
        for (level, _), cell, value in zip(self.columns, cells, rounded, strict=True):
            beside = [v for (each, _), v in zip(self.columns, rounded, strict=True) if each == level and v is not None]
            words = _three_digits(cell.published) if published else str(cell)
            found.append((words, len(beside) > 1 and value == max(beside)))
        return found


def collect(folders: list[Path], archs: list[str] | None, with_intervals: bool = False) -> Table:
    """Read the result folders; where ``with_intervals``, a class's cells have them.

    Raises
    ------
    UserError
        If intervals are wanted of several folders, a folder has no results, the folders cannot be averaged because they
        do not differ in the seed alone, models were run on different test pictures of a class, or there are no metrics.
    """
    if with_intervals and len(folders) > 1:
        raise UserError("--interval is of one run, not of a mean over several; give one --result")
    opened: dict[str, list[Results]] = {}
    for folder in folders:
        for results in open_results(folder, archs):
            opened.setdefault(results.store.key, []).append(results)
    for each in opened.values():
        _check_alike(each)  # 只有种子不同的，才能取平均
    keys = list(opened) if archs else sorted(opened, key=place)
    everything = [results for each in opened.values() for results in each]
    classes = style.class_order(name for results in everything for name in results.classes)
    groups = [g for g in GROUPS if any(results.content["averages"].get(g) for results in everything)]
    cells: dict[str, dict[Column, Cell]] = {}
    for name in classes:
        check_same_pictures(name, [results for results in everything if name in results.content["classes"]])
        cells[name] = _row({key: [r.content["classes"].get(name) for r in opened[key]] for key in keys}, with_intervals)
    apart = set()
    for group in groups:
        cells[group] = _row({key: [r.content["averages"].get(group) for r in opened[key]] for key in keys})
        for level in LEVELS:
            if len({_averaged(r, group, level) for r in everything if _averaged(r, "all", level)}) > 1:
                apart.add(group)
                cells[group] |= {(level, key): Cell([], None) for key in keys}
    table = Table({key: len(opened[key]) for key in keys}, classes, groups, apart, cells)
    if not table.columns:
        names = ", ".join(repr(str(results.store.results)) for results in everything)
        raise UserError(f"no class in {names} has good and defective test pictures: no ROC AUC; see --result")
    return table


def _averaged(results: Results, group: str, level: str) -> frozenset[str]:
    """The classes that a model's average at a level is over."""
    members, rows = GROUPS[group], results.content["classes"]
    measured = {name for name, row in rows.items() if row[f"{level}_rocauc"] is not None}
    return frozenset(measured if members is None else measured.intersection(members))


def _row(found: dict[str, list[dict | None]], with_intervals: bool = False) -> dict[Column, Cell]:
    """The cells of a class or a group from each model's rows, of which every result folder has one."""
    cells = {}
    for level in LEVELS:
        for key, each in found.items():
            rows = [row for row in each if row]
            values = [row[f"{level}_rocauc"] for row in rows if row[f"{level}_rocauc"] is not None]
            interval = rows[0][f"{level}_rocauc_interval"] if rows and with_intervals else None
            cells[level, key] = Cell(values, ((rows[0]["published"] if rows else None) or {}).get(level), interval)
    return cells


def _check_alike(each: Sequence[Results]) -> None:
    words = {"weights_sha256": "weights", "dimensions": "numbers of dimensions"}
    for one, other in combinations(each, 2):
        here, there = map(_but_for_the_seed, (one, other))
        differing = [words.get(key, key) for key in here if here[key] != there.get(key)]
        if differing or _seeds(one) == _seeds(other):
            how = f"have different {differing[0]}" if differing else "do not differ in the seed"
            raise UserError(
                f"{str(one.store.results)!r} and {str(other.store.results)!r} {how}; "
                "give --result folders that differ in the seed alone, or leave this model out (--arch)"
            )


def _seeds(results: Results) -> tuple[int | None, int | None]:
    """What the channels and what turns and crops were drawn from, None where nothing is drawn."""
    made_with = results.content["run"]["configuration"]
    return made_with.get("seed"), made_with["preprocessing"].get("seed")


def _but_for_the_seed(results: Results) -> dict[str, object]:
    """What results must have in common to be averaged; the seed draws the dimensions, so only their number counts."""
    made_with, rows = results.content["run"]["configuration"], results.content["classes"]
    same = {key: value for key, value in made_with.items() if key != "seed"}
    return same | {
        "preprocessing": {key: value for key, value in made_with["preprocessing"].items() if key != "seed"},
        "dimensions": len(made_with.get("dimensions") or ()),  # 前身没有这一项
        "classes": set(rows),
        "training pictures": {name: row["training_files"] for name, row in rows.items()},
        "test pictures": {name: row["test_files"] for name, row in rows.items()},
    }
