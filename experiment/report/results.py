"""The results file: a row a class, averages, differences to the published table, and the table.

结果文件：每类一行，平均值，与发表值的差，及结尾的表。
"""

import shlex
import sys
from collections.abc import Collection, Iterable
from typing import Any, TextIO

from tqdm import tqdm

from experiment.files.arrays import METRICS
from experiment.files.folder import Store
from experiment.files.provenance import DataFolder, gone, made_otherwise, may_stay, of_other_data
from experiment.files.records import LEVELS
from experiment.methods import METHODS
from experiment.report.published import Reference, Row, compare, departures, sentence, verdict
from experiment.report.words import padded, width
from system.errors import UserError
from system.files import Staged


def averages(rows: dict[str, Row], reference: Reference, key: str) -> dict[str, Row | None]:
    """Means over textures, objects and all; the published mean only where its classes are all there."""
    result: dict[str, Row | None] = {}
    for group, members in reference.groups.items():
        names = list(rows) if group == "all" else [n for n in members if n in rows]
        if not names:
            result[group] = None
            continue
        row: Row = {"classes": len(names)}
        for metric in METRICS:
            values = [rows[n][metric] for n in names if rows[n].get(metric) is not None]
            row[metric] = sum(values) / len(values) if values else None
        complete = sorted(names) == sorted(members) and all(rows[n]["published"] for n in names)
        published = reference.of("all" if group == "all" else f"all_{group}", key) if complete else None
        result[group] = compare(row, published)
    return result


def kept_results(
    store: Store,
    options: dict[str, Any],
    configuration: dict[str, Any],
    data: DataFolder,
    classes: Collection[str],
    replace: bool,
) -> dict[str, Any]:
    """The results to go on with: other classes' rows are kept, an incomplete run's progress too.

    The rows of classes whose folders are gone go, and a line says so.

    Parameters
    ----------
    store : Store
    options : dict
        The run's options; an incomplete run with equal ones is continued.
    configuration : dict
        What rows must have in common to stand in one file.
    data : DataFolder
    classes : collection of str
        The run's.
    replace : bool
        Rows of another configuration or data set need not stay: they do until the run is complete, as ``earlier``.

    Raises
    ------
    UserError
        If the rows there were made by another configuration, or from another data set.
    """
    previous = store.read_results()
    run: dict[str, Any] = {"options": options, "configuration": configuration, "finished": []}
    results = {"classes": {}, "averages": {}, "run": run, "complete": False}
    if previous is None:
        return results
    before, rows, path = previous["run"], previous["classes"], store.results
    earlier = [name for name in before.get("earlier", []) if name in rows]
    if earlier and not replace:
        raise UserError(
            f"{str(path)!r} holds {', '.join(earlier)} as made before a --refit that was interrupted; give that "
            "command again, or another --save_path"
        )
    own = {name: row for name, row in rows.items() if name not in earlier}
    stay = may_stay(made_otherwise(path, before["configuration"], configuration), replace)
    if stay:
        for name in gone(own, data, classes):
            print(f"{name}: its folder is gone from {str(data.root)!r}; its row goes, too")
            del own[name]
        stay = may_stay(of_other_data(path, own, data, classes), replace)
    if not stay:
        results["classes"], run["earlier"] = rows, list(rows)
        return results
    results["classes"] = {name: row for name, row in rows.items() if name in own or name in earlier}
    if earlier:
        run["earlier"] = earlier
    if not previous["complete"] and before["options"] == options:
        known = (name for name in before["finished"] if name in own)
        run["finished"] = [name for name in known if store.arrays(name).exists() or not rows[name]["n_test"]]
    return results


class ResultsFile:
    """A run's results as they grow: every change is written. What was there before stays until the first new row.

    Parameters
    ----------
    store : Store
    content : dict
        From `kept_results`.
    reference : Reference
    classes : iterable of str
        The run's, in order; rows that were there come before.
    """

    def __init__(self, store: Store, content: dict[str, Any], reference: Reference, classes: Iterable[str]) -> None:
        self.content, self._store, self._reference = content, store, reference
        self._order = list(dict.fromkeys([*content["classes"], *classes]))

    def is_finished(self, name: str) -> bool:
        """Whether a class needs nothing more in this run."""
        return name in self.content["run"]["finished"]

    def record(self, name: str, row: Row, staged: Staged) -> bool:
        """Take a class's row, to be written with its files; whether its metrics are others than before."""
        before = self.content["classes"].get(name, {})
        self.content["classes"][name] = row = compare(row, self._reference.of(name, self._store.key))
        if name in self._earlier:
            self._earlier.remove(name)
        self._write(staged)
        return {**before, "seconds": None} != {**row, "seconds": None}

    def say(self, name: str) -> None:
        """Say a class's row."""
        tqdm.write(line(name, self.content["classes"][name]))  # 在下一类的进度条之上
        sys.stdout.flush()

    def finish(self, name: str) -> None:
        """Note that a class's figures are there, too."""
        self.content["run"]["finished"].append(name)
        self._write()

    def drop_earlier(self) -> None:
        """Rows that another configuration or data set made go: the run has replaced what it was to replace."""
        for name in self.content["run"].pop("earlier", []):
            del self.content["classes"][name]

    def complete(self, options: dict[str, Any], defaults: dict[str, Any], **run: Any) -> None:
        """Add the verdict and what is known of the whole run."""
        self.content["run"] |= run
        departed = departures(options, defaults)
        self.content["verdict"] = verdict(self.content["classes"], self._reference, self._store.key, departed)
        self.content["complete"] = True
        self._write()

    @property
    def _earlier(self) -> list[str]:
        return self.content["run"].get("earlier", [])

    def _write(self, staged: Staged | None = None) -> None:
        rows = self.content["classes"]
        self.content["classes"] = {name: rows[name] for name in self._order if name in rows}
        own = {name: row for name, row in self.content["classes"].items() if name not in self._earlier}
        self.content["averages"] = averages(own, self._reference, self._store.key)
        self._store.write_results(self.content, staged)


def half_replaced(results: dict[str, Any], store: Store) -> list[str]:
    """What an interrupted run has left in between, in words, for whoever reads the results."""
    run, found = results["run"], []
    if earlier := run.get("earlier"):
        found.append(
            f"{str(store.results)!r}: {', '.join(earlier)} as made before a --refit that was interrupted, with another "
            f"configuration or other data than the other classes; go on with: {run['command']}"
        )
    missing = [name for name, row in results["classes"].items() if row["n_test"] and not store.arrays(name).exists()]
    if missing:
        found.append(
            f"{str(store.results)!r}: the arrays of {', '.join(missing)} are not there, as when a run is killed that "
            f"replaces them; make them again with: {run['command']}"
        )
    return found


def remark(name: str, words: str, file: TextIO | None = None) -> None:
    """Tell, by default on standard error, what a user should know of a class; its row keeps it under ``remarks``."""
    tqdm.write(f"{name}: {words}", file=file or sys.stderr)  # 在进度条之上
    (file or sys.stderr).flush()


def line(name: str, row: Row) -> str:
    """What is said as soon as a class is done."""
    metrics = [f"{level} ROC AUC {_cell(row[f'{level}_rocauc'], '.4f')}" for level in LEVELS]
    metrics.append(f"pixel AUPRO {_cell(row['pixel_aupro'], '.4f')}")
    return f"{name}: {', '.join(metrics)} ({row['seconds']['total']:.1f} s)"


def curves(results: dict[str, Any], store: Store) -> dict[str, dict[str, Any]]:
    """Every class's stored ROC curves with their ROC AUC, for `report.figures`; names as it can draw them."""
    from experiment.report.style import printable  # 连带 matplotlib：画图之前不必等它

    rows = results["classes"].items()
    return {printable(name): curves_of(store.read_arrays(name) or {}, row) for name, row in rows}


def curves_of(arrays: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A class's stored ROC curves (K, 2) with their ROC AUC, by level; None where a kind of label is missing."""
    return {
        level: None if arrays.get(f"{level}_roc") is None else (arrays[f"{level}_roc"], row[f"{level}_rocauc"])
        for level in LEVELS
    }


def table(results: dict[str, Any]) -> str:
    """The aligned table that ends a run."""
    head = ["class"]
    for level in LEVELS:
        head += [f"{level} ROC AUC", "published", "difference"]
    lines = [[*head, "pixel AUPRO", "pixel AUPIMO", "seconds"]]
    rows = list(results["classes"].items())
    rows += [(f"average, {group}", row) for group, row in results["averages"].items() if row]
    for name, row in rows:
        cells = [name]
        for level in LEVELS:
            values = row[f"{level}_rocauc"], (row["published"] or {}).get(level), (row["difference"] or {}).get(level)
            cells += [_cell(v, f) for v, f in zip(values, (".4f", ".3f", "+.4f"), strict=True)]
        cells += [_cell(row.get(key), ".4f") for key in ("pixel_aupro", "pixel_aupimo")]
        lines.append([*cells, _cell(row.get("seconds", {}).get("total"), ".1f")])
    widths = [max(width(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join([padded(line[0], widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)])
        for line in lines
    ]
    rule = "-" * width(text[0])
    return "\n".join(
        [text[0], rule, *text[1 : 1 + len(results["classes"])], rule, *text[1 + len(results["classes"]) :]]
    )


def ending(results: dict[str, Any], store: Store) -> str:
    """What a run says at its end: the table, the files written, how to look at them, the verdict."""
    lines = ["", table(results), "", *(f"wrote {what}: {path}" for what, path in store.written())]
    lines.append(f"to look at them: python plot/results_page.py --result {shlex.quote(str(store.root))}")
    lines += ["", sentence(results["verdict"])]
    options = results["run"]["options"]
    is_random = options["weights"] == "random"
    if is_random:
        lines.append("These weights are random: the figures above check the program, not the method.")
    elif options["demo"]:
        lines.append("These pictures are drawn: the figures above are what a trained network finds on them.")
    if is_random or options["demo"]:
        name, method = options["dataset"], options["method"]
        data = f"--dataset {name} --data_path FOLDER" if name != "mvtec" else "--data_path FOLDER_OF_MVTEC_AD"
        which = f"--arch {METHODS[method].arch}" if method == "padim" else f"--method {method}"
        lines.append(f"The real result: python main.py {which} {data}")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
