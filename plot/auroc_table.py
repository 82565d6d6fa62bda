"""ROC AUC of every class beside the published: grouped bars, and tables as Markdown, CSV, LaTeX.

各类的 ROC AUC 与发表值：分组条形图，及 Markdown、CSV、LaTeX 表格（指标见论文 IV.A）。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from _options import Parser, parser, run, save, save_text
from _results import Results, architectures, open_results
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiment import style
from experiment.fitted import CONFIGURATION
from experiment.published import LEVELS
from system.errors import UserError
from experiment.style import Say

GROUPS = ("textures", "objects", "all")
STEM = "auroc_table"


def options() -> Parser:
    """The command line."""
    return parser(__doc__, several=True)


@dataclass(frozen=True)
class Cell:
    """One figure of the table: our values, one a result folder, and the published one."""

    values: list[float]
    published: float | None

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        return f"{self.mean:.3f}" + ("" if self.deviation is None else f" ± {self.deviation:.3f}")


@dataclass
class Table:
    """``cells[row][arch, level]``; rows are classes, then the averages that exist.

    Attributes
    ----------
    archs : list of str
    counts : dict
        Result folders of each architecture.
    classes, groups : list of str
        Rows.
    cells : dict
    """

    archs: list[str]
    counts: dict[str, int]
    classes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    cells: dict[str, dict[tuple[str, str], Cell]] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        return max(self.counts.values()) > 1


def collect(folders: list[Path], arch: str | None) -> Table:
    """Read the result folders.

    Raises
    ------
    UserError
        If a folder has no results, or the folders cannot be averaged because their classes or
        anything but the seed differ.
    """
    opened: dict[str, list[Results]] = {}
    for folder in folders:
        for results in open_results(folder, arch):
            opened.setdefault(results.store.key, []).append(results)
    table = Table([a for a in architectures_in_order(folders) if a in opened], {a: len(rs) for a, rs in opened.items()})
    for each in opened.values():
        _check_alike(each)  # 只有种子不同的，才能取平均
    table.classes = style.class_order(n for rs in opened.values() for r in rs for n in r.classes)
    table.groups = [g for g in GROUPS if any(r.content["averages"].get(g) for rs in opened.values() for r in rs)]
    for name in table.classes + table.groups:
        table.cells[name] = {}
        for a in table.archs:
            part = "averages" if name in table.groups else "classes"
            rows = [row for r in opened[a] if (row := r.content[part].get(name))]
            for level in LEVELS:
                values = [row[f"{level}_rocauc"] for row in rows if row[f"{level}_rocauc"] is not None]
                table.cells[name][a, level] = Cell(values, ((rows[0]["published"] if rows else None) or {}).get(level))
    return table


def architectures_in_order(folders: list[Path]) -> list[str]:
    """Every architecture of any folder, once."""
    return list(dict.fromkeys(a for folder in folders for a in architectures(folder)))


def _check_alike(each: list[Results]) -> None:
    first, words = each[0], {"weights_sha256": "weights", "dimensions": "numbers of dimensions"}
    for other in each[1:]:
        here, there = map(_but_for_the_seed, (first, other))
        word = next((words.get(key, key) for key in here if here[key] != there[key]), None)
        if word is None:
            continue
        raise UserError(
            f"{str(first.store.results)!r} and {str(other.store.results)!r} have different {word}; "
            "give --result folders that differ in the seed alone"
        )


def _but_for_the_seed(results: Results) -> dict[str, object]:
    """What results must have in common to be averaged; of the dimensions, which the seed draws, how many."""
    made_with = results.content["run"]["configuration"]
    same = {key: made_with[key] for key in CONFIGURATION if key in made_with and key not in ("seed", "dimensions")}
    return same | {"dimensions": len(made_with["dimensions"]), "classes": set(results.content["classes"])}


def row_label(name: str, say: Say) -> str:
    """A class by its name, an average in words."""
    words = {
        "textures": ("mean of textures", "纹理类平均"),
        "objects": ("mean of objects", "物体类平均"),
        "all": ("mean of all", "总平均"),
    }
    return say(*words[name]) if name in words else name


def columns(table: Table, say: Say) -> list[tuple[str, str, str]]:
    """(level, arch, heading) of every column pair."""
    heads = []
    for level, word in zip(LEVELS, (say("image", "图像级"), say("pixel", "像素级")), strict=True):
        for a in table.archs:
            count = f" (n = {table.counts[a]})" if table.several else ""
            heads.append((level, a, f"{style.arch_label(a)} {word}{count}"))
    return heads


def number(value: float | None) -> str:
    """A published figure."""
    return "–" if value is None else f"{value:.3f}"


def markdown(table: Table, say: Say) -> str:
    """The table for a README."""
    heads = columns(table, say)
    titles = [say("class", "类别")]
    for _, _, title in heads:
        titles += [title, say("published", "已发表")]
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    for name in table.classes + table.groups:
        cells = [row_label(name, say)]
        for level, a, _ in heads:
            cell = table.cells[name][a, level]
            cells += [str(cell), number(cell.published)]
        lines.append([f"**{c}**" for c in cells] if name in table.groups else cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(table: Table) -> str:
    """Every figure with all its digits: the same in both languages."""
    titles = ["class"]
    for level in LEVELS:
        for a in table.archs:
            titles += [f"{a}_{level}{part}" for part in ("", "_std", "_n", "_published")]
    lines = [titles]
    for name in table.classes + table.groups:
        cells = [f"all_{name}" if name in ("textures", "objects") else name]
        for level in LEVELS:
            for a in table.archs:
                cell = table.cells[name][a, level]
                cells += ["" if v is None else f"{v:.6f}" for v in (cell.mean, cell.deviation)]
                cells += [str(len(cell.values)), "" if cell.published is None else f"{cell.published:.3f}"]
        lines.append(cells)
    return "".join(",".join(line) + "\n" for line in lines)


def latex(table: Table, say: Say) -> str:
    """A ``tabular`` to ``\\input``; it needs the packages booktabs and, in Chinese, ctex."""
    heads = columns(table, say)

    def escape(words: str) -> str:
        return words.replace("_", r"\_").replace(" ± ", r" $\pm$ ").replace("–", "--").replace("n = ", "$n$ = ")

    packages = say(r"\usepackage{booktabs}", r"\usepackage{ctex,booktabs}，用 xelatex 编译")
    lines = [f"% {packages}", r"\begin{tabular}{l" + "rr" * len(heads) + "}", r"\toprule"]
    lines.append(" & ".join([""] + [rf"\multicolumn{{2}}{{c}}{{{escape(title)}}}" for _, _, title in heads]) + r" \\")
    lines += [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(heads))]
    lines.append(
        " & ".join([say("class", "类别")] + [say("ours", "本文"), say("published", "已发表")] * len(heads)) + r" \\"
    )
    lines.append(r"\midrule")
    for name in table.classes + table.groups:
        if table.groups and name == table.groups[0]:
            lines.append(r"\midrule")
        cells = [row_label(name, say)]
        for level, a, _ in heads:
            cell = table.cells[name][a, level]
            cells += [str(cell), number(cell.published)]
        lines.append(" & ".join(map(escape, cells)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def bars(axes: Axes, table: Table, level: str) -> None:
    """One level's grouped bars; a diamond is the published figure."""
    names = table.classes + table.groups
    # 各类与平均之间空开一些
    places = np.arange(len(names)) + np.where(np.arange(len(names)) < len(table.classes), 0, 0.6)
    width = 0.8 / len(table.archs)
    lowest, highest = 1.0, 1.0
    for k, a in enumerate(table.archs):
        x = places + (k - (len(table.archs) - 1) / 2) * width  # 同一类的各网络并排
        cells = [table.cells[n][a, level] for n in names]
        means = np.array([np.nan if c.mean is None else c.mean for c in cells])
        deviations = np.array([c.deviation or 0 for c in cells]) if table.several else None
        colour = style.ARCH_COLOURS[k % len(style.ARCH_COLOURS)]
        axes.bar(x, means, width * 0.92, color=colour, yerr=deviations, error_kw={"lw": 0.8, "capsize": 1.5})
        published = np.array([np.nan if c.published is None else c.published for c in cells])
        axes.plot(x, published, "D", ms=2.8, mfc="white", mec="black", mew=0.7, zorder=3)
        lowest = np.nanmin([lowest, *means, *published])
        highest = np.nanmax([highest, *(means + (0 if deviations is None else deviations))])
    # 纵轴从 0.5（随机猜测）起；有更低的才往下延
    axes.set(ylim=(min(0.5, np.floor(lowest * 10) / 10), highest + 0.006), xlim=(places[0] - 0.6, places[-1] + 0.6))
    axes.grid(False, axis="x")
    axes.set_xticks(places)


def figure(table: Table, say: Say) -> Figure:
    """Image level above, pixel level below."""
    drawing = Figure((style.DOUBLE, 4.2), layout="constrained")
    upper, lower = drawing.subplots(2, 1, sharex=True)
    for axes, level in ((upper, "image"), (lower, "pixel")):
        bars(axes, table, level)
    upper.set_ylabel(say("image ROC AUC", "图像级 ROC AUC"))
    lower.set_ylabel(say("pixel ROC AUC", "像素级 ROC AUC"))
    names = table.classes + table.groups
    crowded = len(names) > 6
    lower.set_xticklabels(
        [style.printable(row_label(n, say)) for n in names], rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else None,
    )  # fmt: skip
    # 图例：条形为本文，菱形为发表值
    keys: list[Artist] = []
    for k, a in enumerate(table.archs):
        count = (
            say(f", mean ± sd of {table.counts[a]}", f"，{table.counts[a]} 次的均值 ± 标准差") if table.several else ""
        )
        keys.append(Patch(color=style.ARCH_COLOURS[k % len(style.ARCH_COLOURS)], label=style.arch_label(a) + count))
    if any(c.published is not None for row in table.cells.values() for c in row.values()):
        keys.append(
            Line2D(
                [], [], ls="", marker="D", ms=2.8, mfc="white", mec="black", mew=0.7, label=say("published", "已发表")
            )
        )
    drawing.legend(handles=keys, loc="outside upper center", ncols=3)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``auroc_table`` as a figure and as three tables."""
    table = collect(args.result, args.arch)
    yield from save(figure(table, say), args, STEM)
    for suffix, text in (("md", markdown(table, say)), ("csv", comma_separated(table)), ("tex", latex(table, say))):
        yield save_text(text, args, STEM, suffix)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(draw, options().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
