"""The results file: a row a class, averages, differences to the published table, and the table.

Imports no torch and no data set; what is published, and which classes are textures, is passed in.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim.store import Store, StoreError, difference

LEVELS = ("image", "pixel")
Row = dict[str, Any]


class Stopwatch:
    """Seconds a stage; a stage entered again goes on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Reference:
    """What results are held against.

    Attributes
    ----------
    groups : dict
        The classes of ``textures``, ``objects`` and ``all``.
    figures : dict
        ``{class or all_textures, all_objects, all: {arch_image: ROC AUC, arch_pixel: …}}``; empty
        where a comparison would mean nothing.
    """

    groups: dict[str, tuple[str, ...]]
    figures: dict[str, dict[str, float]]

    def of(self, name: str, arch: str) -> dict[str, float] | None:
        """The published image and pixel ROC AUC of a row, if there are any."""
        figures = self.figures.get(name, {})
        if f"{arch}_image" not in figures:
            return None
        return {level: figures[f"{arch}_{level}"] for level in LEVELS}


def compare(row: Row, published: dict[str, float] | None) -> Row:
    """The row with ``published`` and ``difference`` (ours − published), each None where unknown."""
    differences = None
    if published:
        differences = {
            level: None if row[f"{level}_rocauc"] is None else round(row[f"{level}_rocauc"] - published[level], 6)
            for level in LEVELS
        }
    return row | {"published": published, "difference": differences}


def averages(rows: dict[str, Row], reference: Reference, arch: str) -> dict[str, Row | None]:
    """Means over textures, objects and all; the published mean only where its classes are all there."""
    result = {}
    for group, members in reference.groups.items():
        names = list(rows) if group == "all" else [n for n in members if n in rows]
        if not names:
            result[group] = None
            continue
        row: Row = {"classes": len(names)}
        for key in (*(f"{level}_rocauc" for level in LEVELS), "pixel_aupro"):
            values = [rows[n][key] for n in names if rows[n].get(key) is not None]  # 旧结果的行没有 AUPRO
            row[key] = sum(values) / len(values) if values else None
        complete = sorted(names) == sorted(members) and all(rows[n]["published"] for n in names)
        published = reference.of("all" if group == "all" else f"all_{group}", arch) if complete else None
        result[group] = compare(row, published)
    return result


def begin(
    store: Store,
    options: dict[str, Any],
    configuration: dict[str, Any],
    replace: bool,
    check_data: Callable[[dict[str, Row]], None],
) -> dict[str, Any]:
    """The results to go on with: other classes' rows are kept, an incomplete run's progress too.

    Parameters
    ----------
    store : Store
    options : dict
        The run's options; an incomplete run with equal ones is continued.
    configuration : dict
        What rows must have in common to stand in one file.
    replace : bool
        Drop rows of another configuration or data set instead of refusing.
    check_data : callable
        Given the rows, raises StoreError unless they are of the data set at hand.

    Raises
    ------
    StoreError
        If the rows there were made by another configuration, or from another data set.
    """
    previous = store.read_results()
    run = {"options": options, "configuration": configuration, "finished": []}
    results = {"classes": {}, "averages": {}, "run": run, "complete": False}
    if previous is None:
        return results
    if words := difference(previous["run"]["configuration"], configuration):
        if replace:
            return results
        raise StoreError(
            f"{str(store.results)!r} was made with {words}; give another --save_path, or --refit to replace it"
        )
    try:
        check_data(previous["classes"])
    except StoreError:
        if replace:
            return results
        raise
    results["classes"] = previous["classes"]
    if not previous["complete"] and previous["run"]["options"] == options:
        run["finished"] = [name for name in previous["run"]["finished"] if store.arrays(name).exists()]
    return results


def line(name: str, row: Row) -> str:
    """What is said as soon as a class is done."""
    figures = [f"{level} ROC AUC {_cell(row[f'{level}_rocauc'], '.4f')}" for level in LEVELS]
    figures.append(f"pixel AUPRO {_cell(row['pixel_aupro'], '.4f')}")
    return f"{name}: {', '.join(figures)} ({row['seconds']['total']:.1f} s)"


def curves(results: dict[str, Any], store: Store) -> dict[str, dict[str, Any]]:
    """Every class's stored ROC curves with their ROC AUC, for `padim.figures.roc_figure`; names as it can draw them."""
    from padim.style import printable  # 连带 matplotlib：别的函数用不到

    result = {}
    for name, row in results["classes"].items():
        arrays = store.read_arrays(name) or {}
        result[printable(name)] = {
            level: None if arrays.get(f"{level}_roc") is None else (arrays[f"{level}_roc"], row[f"{level}_rocauc"])
            for level in LEVELS
        }
    return result


def table(results: dict[str, Any], arch: str) -> str:
    """The aligned table that ends a run."""
    head = ["class"]
    for level in LEVELS:
        head += [f"{level} ROC AUC", "published", "difference"]
    lines = [[*head, "pixel AUPRO", "seconds"]]
    rows = list(results["classes"].items())
    rows += [(f"average, {group}", row) for group, row in results["averages"].items() if row]
    for name, row in rows:
        cells = [name]
        for level in LEVELS:
            values = row[f"{level}_rocauc"], (row["published"] or {}).get(level), (row["difference"] or {}).get(level)
            cells += [_cell(v, f) for v, f in zip(values, (".4f", ".3f", "+.4f"), strict=True)]
        seconds = row.get("seconds", {}).get("total")
        lines.append([*cells, _cell(row.get("pixel_aupro"), ".4f"), _cell(seconds, ".1f")])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)])
        for line in lines
    ]
    rule = "-" * len(text[0])
    return "\n".join(
        [text[0], rule, *text[1 : 1 + len(results["classes"])], rule, *text[1 + len(results["classes"]) :]]
    )


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def peak_memory() -> int | None:
    """Peak resident size of this process in bytes; None where the system does not tell."""
    if sys.platform == "linux":  # getrusage 会把启动本进程者的峰值也算进来
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
