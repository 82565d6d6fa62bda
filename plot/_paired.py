"""Models that were run on the same test pictures, and what their metrics say of one another.

同一批测试图像上的几个模型，及其数字相互说明了什么。

References
----------
Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006.
"""

import _root  # noqa: F401, I001

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _results import Results, check_same_pictures
from scipy.stats import friedmanchisquare, rankdata, studentized_range, wilcoxon

from experiment.files.folder import Store
from experiment.report.style import arch_label, class_order
from padim.counts import inside
from padim.uncertainty import Z, between, draws, drawn_areas, lacking, placements, standard_error
from system.errors import UserError

ALPHA = 0.05
Interval = list[float] | None


@dataclass(frozen=True)
class Level:
    """The metrics of k models at one level, in C classes.

    Attributes
    ----------
    name : str
        ``image`` or ``pixel``.
    classes : list of str
        Where all models have a ROC AUC.
    areas : ndarray, (C, k)
    intervals : list of list
        For each class, for each model but the first: the 95 % interval of the first one's ROC AUC less this one's, or
        None where there is none.
    """

    name: str
    classes: list[str]
    areas: np.ndarray
    intervals: list[list[Interval]]

    @property
    def differences(self) -> np.ndarray:
        """The first model's ROC AUC less each other one's, (C, k − 1)."""
        return self.areas[:, :1] - self.areas[:, 1:]

    @property
    def ranks(self) -> np.ndarray:
        """Mean ranks over the classes, (k,); 1 is the best, ties share theirs."""
        return rankdata(-self.areas, axis=1).mean(0)

    @property
    def critical_difference(self) -> float:
        """Nemenyi's: mean ranks that lie closer are not told apart."""
        count, k = self.areas.shape
        return float(studentized_range.ppf(1 - ALPHA, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * count)))

    @property
    def differing(self) -> int:
        """Classes in which not all models have the same ROC AUC."""
        return int((self.areas != self.areas[:, :1]).any(1).sum())

    def signed_rank(self) -> float:
        """The p value of Wilcoxon's signed-rank test, two-sided, of two models that differ somewhere."""
        return float(wilcoxon(*self.areas.T).pvalue)

    @property
    def leaning(self) -> float:
        """The sum of the signed ranks of the differences: above 0 where they lean towards the first model."""
        differences = self.differences[:, 0]
        return float(rankdata(np.abs(differences)) @ np.sign(differences))

    def friedman(self) -> tuple[float, float]:
        """χ² and the p value of Friedman's test, of three models or more that differ somewhere."""
        statistic, p = friedmanchisquare(*self.areas.T)
        return float(statistic), float(p)

    def groups(self) -> list[list[int]]:
        """The largest groups of models that Nemenyi's test does not tell apart, each in the order of the ranks."""
        order, found = np.argsort(self.ranks, kind="stable").tolist(), list[list[int]]()
        for first in range(len(order)):
            near = [m for m in order[first:] if self.ranks[m] - self.ranks[order[first]] < self.critical_difference]
            if len(near) > 1 and not any(set(near) <= set(group) for group in found):
                found.append(near)
        return found


def open_files(paths: Sequence[Path]) -> tuple[list[str], list[Results]]:
    """The models of files ``results_{arch}.json``: their names in print and their results.

    Raises
    ------
    UserError
        If there are fewer than two, one is not there or is no such file, or one is named twice.
    """
    if len(paths) < 2:
        raise UserError("a comparison needs two results files or more: FOLDER/results_ARCH.json of each")
    models = []
    for path in paths:
        key = path.stem.removeprefix("results_")
        content = Store(path.parent, key).read_results() if path.name == f"results_{key}.json" else None
        if content is None:
            raise UserError(f"{str(path)!r} is no results file; give FOLDER/results_ARCH.json, which main.py writes")
        models.append(Results(Store(path.parent, key), content))
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a results file is named twice; name each model once")
    labels = [arch_label(model.store.key) for model in models]
    if len(set(labels)) < len(labels):  # 同一个模型的几次运行，只能以文件夹分辨
        roots = [model.store.root.resolve() for model in models]
        names = [root.name if len({each.name for each in roots}) == len(set(roots)) else str(root) for root in roots]
        labels = [f"{label} ({name})" for label, name in zip(labels, names, strict=True)]
    return labels, models


def compared(models: Sequence[Results], name: str) -> Level:
    """The models' metrics at a level, in the classes that all of them have.

    Raises
    ------
    UserError
        If they have no class in common, or were run on different test pictures of one; if arrays are damaged.
    """
    shared = set.intersection(*(set(model.content["classes"]) for model in models))
    if not shared:
        raise UserError("these results have no class in common; a comparison needs the same test pictures")
    key, classes, areas = f"{name}_rocauc", [], []
    for each in class_order(shared):
        check_same_pictures(each, models, "a comparison needs the same test pictures")
        row = [model.row(each)[key] for model in models]
        if None not in row:
            classes.append(each)
            areas.append(row)
    intervals = [[_interval(name, each, models[0], other) for other in models[1:]] for each in classes]
    return Level(name, classes, np.array(areas).reshape(len(classes), len(models)), intervals)


def _interval(level: str, name: str, one: Results, other: Results) -> Interval:
    """The interval of the difference of two models' ROC AUC in a class; None where it is not known."""
    both = [model.arrays(name) for model in (one, other) if model.scores(name).exists()]
    if len(both) < 2 or lacking(labels := both[0]["labels"]):
        return None
    if level == "image":
        # 同一批图片：两个模型的得分相关，方差取各图之差的
        parts = [placements(arrays["image_scores"], labels) for arrays in both]
        defective, good = (a - b for a, b in zip(*parts, strict=True))
        difference, error = float(defective.mean()), standard_error(defective, good)
        return [difference - Z * error, difference + Z * error] if error else None
    if any(arrays["pixel_wins"] is None for arrays in both):
        return None
    # 不看的地方，异常图是 NaN；两个模型看的地方相同
    region = None if one.row(name)["region"] is None else ~np.isnan(one.pixels(name, len(labels))[0][0])
    masks, weights = inside(both[0]["masks"], region), draws(labels)  # 抽到的图片，两个模型相同
    numbers = np.count_nonzero(masks, axis=1), masks.shape[1]
    first, second = (drawn_areas(weights, arrays["pixel_wins"], *numbers) for arrays in both)
    return between(first - second)
