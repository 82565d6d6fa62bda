"""ROC AUC of every class, models side by side, and the published: grouped bars, and tables as Markdown, CSV, LaTeX.

各类的 ROC AUC，各模型并排，另附发表值：分组柱状图，及 Markdown、CSV、LaTeX 表格（指标见论文 IV.A）。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from _auroc import Table, collect, level_label
from _options import Parser, Script, save, target, write_text
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiment.report import style
from experiment.methods import has_other_weights, method_of
from experiment.files.records import LEVELS
from experiment.report.style import Say

STEM = "auroc_table"


def interval_option(made: Parser) -> None:
    """Add ``--interval``."""
    made.add_argument("--interval", action="store_true", help="the tables have each class's 95 %% intervals, too")


def row_label(name: str, say: Say) -> str:
    """What a row is called: a class by its name, an average in words."""
    words = {
        "textures": ("mean of textures", "纹理类平均"),
        "objects": ("mean of objects", "物体类平均"),
        "all": ("mean of all", "总平均"),
    }
    return say(*words[name]) if name in words else name


def row_title(table: Table, name: str, say: Say) -> str:
    """The label of a row, which says so where an average is not given."""
    return row_label(name, say) + (say(" (–: of different classes)", "（–：类别不同）") if name in table.apart else "")


def published_label(table: Table, say: Say) -> str:
    """What the published metrics are called; a network with other weights than ours is named."""
    others = [method_of(key).label for key in table.counts if has_other_weights(key)]
    words = [say(f" ({name}: with other weights)", f"（{name}：权重不同）") for name in others]
    return "".join([say("published", "已发表"), *words])


def markdown(table: Table, say: Say) -> str:
    """Two tables for a README: our metrics, and the published ones as far as there are any."""
    labels, heads = style.arch_labels(table.counts), []
    for level, key in table.columns:
        count = f" (n = {table.counts[key]})" if table.several else ""
        heads.append(f"{labels[key]} {level_label(level, say)}{count}")

    def block(title: str, names: list[str], published: bool) -> str:
        lines = [[title, *heads], ["---"] + ["---:"] * len(heads)]
        for name in names:
            label = row_title(table, name, say)
            words = [f"**{each}**" if is_best else each for each, is_best in table.printed(name, published)]
            lines.append([f"*{label}*" if name in table.groups else label, *words])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    text = block(say("class", "类别"), list(table.cells), published=False)
    return text + (f"\n{block(published_label(table, say), table.published, True)}" if table.published else "")


def comma_separated(table: Table) -> str:
    """Every metric with all its digits, then the published ones; the text is the same in both languages."""
    titles = ["class"]
    ends = ("_low", "_high") if any(cell.interval for row in table.cells.values() for cell in row.values()) else ()
    titles += [f"{key}_{level}{part}" for level, key in table.columns for part in ("", "_std", "_n", *ends)]
    lines = [[*titles, *(f"{key}_{level}_published" for level, key in table.columns)]]
    for name, row in table.cells.items():
        line = [f"all_{name}" if name in ("textures", "objects") else name]
        cells = [row[column] for column in table.columns]
        for cell in cells:
            line += ["" if v is None else f"{v:.6f}" for v in (cell.mean, cell.deviation)] + [str(len(cell.values))]
            line += [f"{end:.6f}" for end in cell.interval] if cell.interval else [""] * len(ends)
        lines.append([*line, *("" if cell.published is None else f"{cell.published:.3f}" for cell in cells)])
    return "".join(",".join(line) + "\n" for line in lines)


def latex(table: Table, say: Say) -> str:
    """A ``tabular`` for ``\\input``; it needs the packages booktabs and, in Chinese, ctex."""

    def escape(words: str) -> str:
        return words.replace("_", r"\_").replace(" ± ", r" $\pm$ ").replace("–", "--").replace("n = ", "$n$ = ")

    def spanned(names: list[tuple[str, ...]]) -> str:
        """A line of the heading: the last of the names over all columns that share them, and a rule below."""
        cells, rules, start = [""], [], 2
        for shared, same in groupby(names):
            end = start + len(list(same)) - 1
            cells.append(rf"\multicolumn{{{end - start + 1}}}{{c}}{{{shared[-1]}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{end}}}")
            start = end + 1
        return " & ".join(cells) + r" \\" + "\n" + "".join(rules)

    def block(names: list[str], published: bool) -> list[str]:
        lines = []
        for name in names:
            if name in table.groups and (name == names[0] or names[names.index(name) - 1] not in table.groups):
                lines.append(r"\midrule")
            cells = [rf"\textbf{{{escape(w)}}}" if best else escape(w) for w, best in table.printed(name, published)]
            lines.append(" & ".join([escape(row_title(table, name, say)), *cells]) + r" \\")
        return lines

    methods = {key: method_of(key).label for key in table.counts}
    counts = {key: f" (n = {n})" if table.several else "" for key, n in table.counts.items()}
    networks = [escape(style.arch_tag(key) + counts[key]) for _, key in table.columns]
    packages = say(r"\usepackage{booktabs}", r"\usepackage{ctex,booktabs}，用 xelatex 编译")
    lines = [f"% {packages}", r"\begin{tabular}{l" + "r" * len(networks) + "}", r"\toprule"]
    lines.append(spanned([(level_label(level, say),) for level, _ in table.columns]))
    lines.append(spanned([(level, methods[key]) for level, key in table.columns]))
    lines.append(" & ".join([say("class", "类别"), *networks]) + r" \\")
    lines += [r"\midrule", *block(list(table.cells), published=False)]
    if table.published:
        title = rf"\multicolumn{{{len(networks) + 1}}}{{l}}{{\emph{{{published_label(table, say)}}}}} \\"
        lines += [r"\midrule", title, r"\midrule", *block(table.published, published=True)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def drawn(table: Table) -> list[str]:
    """The rows that have a metric."""
    return [name for name, row in table.cells.items() if any(cell.values for cell in row.values())]


def bars(axes: Axes, table: Table, level: str) -> None:
    """Draw one level's grouped bars; a diamond is the published metric."""
    names, keys = drawn(table), table.at(level)
    # 各类与平均之间空开一些
    places = np.arange(len(names)) + np.where([name in table.groups for name in names], 0.6, 0)
    width = 0.8 / len(keys)
    lowest, highest = 1.0, 1.0
    for k, key in enumerate(keys):
        x = places + (k - (len(keys) - 1) / 2) * width  # 同一类的各模型并排
        cells = [table.cells[n][level, key] for n in names]
        means = np.array([np.nan if c.mean is None else c.mean for c in cells])
        deviations = np.array([c.deviation or 0 for c in cells]) if table.several else None
        whiskers = {"lw": 0.8, "capsize": 1.5}
        axes.bar(x, means, width * 0.92, color=colour(table, key), yerr=deviations, error_kw=whiskers)
        published = np.array([np.nan if c.published is None else c.published for c in cells])
        axes.plot(x, published, "D", ms=2.8, mfc="white", mec="black", mew=0.7, zorder=3)
        lowest = np.nanmin([lowest, *means, *published])
        highest = np.nanmax([highest, *(means + (0 if deviations is None else deviations))])
    # 纵轴从 0.5（随机猜测）起；有更低的才往下延
    axes.set(ylim=(min(0.5, np.floor(lowest * 10) / 10), highest + 0.006), xlim=(places[0] - 0.6, places[-1] + 0.6))
    axes.grid(False, axis="x")
    axes.set_xticks(places)


def colour(table: Table, key: str) -> str:
    """A model's colour, which is the same at both levels."""
    return style.ARCH_COLOURS[list(table.counts).index(key) % len(style.ARCH_COLOURS)]


def figure(table: Table, say: Say) -> Figure:
    """Draw the image level above and the pixel level below, as far as there are metrics."""
    levels = [level for level in LEVELS if table.at(level)]
    drawing = Figure((style.DOUBLE, 1 + 1.6 * len(levels)), layout="constrained")
    panels = drawing.subplots(len(levels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, level in zip(panels, levels, strict=True):
        bars(axes, table, level)
        axes.set_ylabel(f"{level_label(level, say)} ROC AUC")
    names = drawn(table)
    crowded = len(names) > 6
    panels[-1].set_xticklabels(
        [style.printable(row_label(n, say), 24) for n in names], rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else None,
    )  # fmt: skip
    # 图例：柱为本文，菱形为发表值
    keys: list[Artist] = []
    for key, label in style.arch_labels(table.counts).items():
        n = table.counts[key]
        count = say(f", mean ± sd of {n}", f"，{n} 次的均值 ± 标准差") if table.several else ""
        keys.append(Patch(color=colour(table, key), label=label + count))
    if table.published:
        diamond = Line2D([], [], ls="", marker="D", ms=2.8, mfc="white", mec="black", mew=0.7)
        diamond.set_label(published_label(table, say))
        keys.append(diamond)
    drawing.legend(handles=keys, loc="outside upper center", ncols=2 if len(keys) == 4 else 3)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``auroc_table`` as a figure and as three tables."""
    table = collect(args.result, args.arch, args.interval)
    yield from save(figure(table, say), args, STEM)
    for suffix, text in (("md", markdown(table, say)), ("csv", comma_separated(table)), ("tex", latex(table, say))):
        yield write_text(target(args, STEM, suffix), text)


SCRIPT = Script("auroc_table", __doc__, draw=draw, own_options=interval_option, several=True, each_model=False)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
