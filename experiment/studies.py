"""The file of studies: what may stay in it, a class's metrics, averages and spread, the table. Imports no torch.

研究结果的文件：哪些可以留着，加入一类的数字，平均与离散，及结尾的表。
"""

import shlex
import sys
from collections.abc import Collection, Mapping
from statistics import mean, stdev
from typing import Any

from experiment.files.folder import Store
from experiment.files.provenance import DataFolder, gone, made_otherwise, may_stay, of_other_data
from experiment.files.records import LEVELS, configuration
from system.errors import UserError
from system.files import write_json


class Studies:
    """The stored studies of one model, to add to; whoever makes this holds the store's lock.

    Parameters
    ----------
    store : Store
    made_from : dict
        The model's record (`experiment.models.describe`) with its ``preprocessing``: all metrics in one file have its
        `configuration` in common.
    wanted : mapping
        ``{study: variants}`` of this command.
    data : DataFolder
    chosen : collection of str
        This command's classes.
    replace : bool
        Drop what this command's metrics cannot stand beside, instead of refusing.

    Attributes
    ----------
    content : dict
        As in the file: its ``studies``, and the ``data`` that they are of.

    Raises
    ------
    UserError
        If another configuration made them, they are of another data set, or classes that are not chosen have other
        variants in a wanted study; if the file holds something else.
    """

    def __init__(
        self,
        store: Store,
        made_from: dict[str, Any],
        wanted: Mapping[str, list[dict[str, Any]]],
        data: DataFolder,
        chosen: Collection[str],
        replace: bool,
    ):
        self._store, self._versions, self._wanted, self._data = store, made_from["versions"], wanted, data
        common = configuration(made_from)
        self.content: dict[str, Any] = {"configuration": common, "data": {}, "studies": {}}
        stored = store.read_studies()
        if stored is None:
            return
        made_of, studies, path = stored["data"], stored["studies"], store.ablation
        if not may_stay(made_otherwise(path, stored["configuration"], common), replace):
            return
        for name in gone(made_of, data, chosen):
            _drop(name, studies, _studies_of(name, studies))
            print(f"{name} is no longer in {str(data.root)!r}; its figures are taken out of {str(path)!r}")
            del made_of[name]
        if not may_stay(of_other_data(path, made_of, data, chosen), replace):
            return
        for study, rows in wanted.items():
            if study not in studies or studies[study]["variants"] == rows:
                continue
            left = [name for name in studies[study]["classes"] if name not in chosen]
            if left and not replace:
                raise UserError(
                    f"{str(path)!r} holds the study of {study} with other rows, for {', '.join(left)}, too; "
                    "run these, too (--classes), or give another --save_path, or --refit to replace the study"
                )
            del studies[study]
        stored["data"] = {name: made for name, made in made_of.items() if _studies_of(name, studies)}
        self.content = stored

    def take(self, name: str, metrics: Mapping[str, dict[str, Any]]) -> None:
        """Add a class's metrics, and write; where its pictures have changed, its old ones in other studies go."""
        self._store.check_there()
        studies, before = self.content["studies"], self.content["data"].get(name)
        if before and not self._data.is_unchanged(name, before):
            stale = [study for study in _studies_of(name, studies) if study not in metrics]
            _drop(name, studies, stale)
            if stale:
                print(
                    f"{name}: its pictures have changed, and its old figures in the studies of {', '.join(stale)} are "
                    f"dropped; compute them again with --study {' '.join(stale)}"
                )
        self.content["data"][name] = self._data.record(name)
        for study, rows in self._wanted.items():
            others = studies[study]["classes"] if study in studies else {}
            studies[study] = summarise({"variants": rows, "classes": others | {name: metrics[study]}})
        self.content["command"] = shlex.join(["python", *sys.argv])
        write_json(self._store.ablation, self.content | {"versions": self._versions})


def _drop(name: str, studies: dict[str, Any], stale: list[str]) -> None:
    """Take a class out of studies."""
    for study in stale:
        del studies[study]["classes"][name]
        if studies[study]["classes"]:
            studies[study] = summarise(studies[study])
        else:
            del studies[study]


def summarise(study: dict[str, Any]) -> dict[str, Any]:
    """Averages over the classes for every variant, and over all variants their spread."""
    averages: dict[str, dict[str, float | None]] = {}
    for label in (variant["label"] for variant in study["variants"]):
        rows = [metrics[label] for metrics in study["classes"].values()]
        known = {level: [row[level] for row in rows if row[level] is not None] for level in LEVELS}
        averages[label] = {level: mean(values) if values else None for level, values in known.items()}
    spread: dict[str, dict[str, float] | None] = {}
    for level in LEVELS:
        values = [value for row in averages.values() if (value := row[level]) is not None]
        spread[level] = None
        if len(values) > 1:
            spread[level] = {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}
    return study | {"averages": averages, "spread": spread}


def table(name: str, study: dict[str, Any]) -> str:
    """A study's averages, and the spread where the variants are seeds."""
    count = len(study["classes"])
    head = f"{name}, {count} {'class' if count == 1 else 'classes'}"
    width = max(len(label) for label in [*study["averages"], "mean ± std", head])
    lines = [f"{head:<{width}}  image ROC AUC  pixel ROC AUC"]

    def cells(values: dict[str, str]) -> str:
        return "  ".join(values[level].rjust(13) for level in LEVELS)

    for label, row in study["averages"].items():
        texts = {level: "–" if row[level] is None else f"{row[level]:.4f}" for level in LEVELS}
        lines.append(f"{label:<{width}}  {cells(texts)}")
    if name == "seeds" and all(study["spread"].values()):
        spread = study["spread"]
        both = {level: f"{spread[level]['mean']:.4f}±{spread[level]['std']:.4f}" for level in LEVELS}
        lines.append(f"{'mean ± std':<{width}}  {cells(both)}")
        for key in ("min", "max"):
            lines.append(f"{key:<{width}}  {cells({lv: f'{spread[lv][key]:.4f}' for lv in LEVELS})}")
    return "\n".join(lines)


def _studies_of(name: str, studies: Mapping[str, dict[str, Any]]) -> list[str]:
    return [study for study, content in studies.items() if name in content["classes"]]
