"""Whether one method is better than others on the same test pictures: tests over classes, differences within each.

同一批测试图像上，一个方法是否比别的好：各类之间的检验，每类之内的差。

``compare.py A B [C …]`` takes files ``results_{arch}.json``; differences are the first one's metrics less another's.
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _auroc import level_label
from _options import Parser, parser, run, save, target, write_text
from _paired import ALPHA, Level, compared, open_files
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.report import style
from experiment.report.published import LEVELS
from experiment.report.style import Say
from experiment.report.words import shortened
from system.errors import UserError

STEM = "compare"
SIDE, HEAD, BAR, LINE = 2.15, 0.8, 0.08, 0.16  # 英寸：两边的名字，轴以上，一条横杠，一行名字
WIDEST = 34  # 两边放得下的字数
BEYOND = 5  # 少于六类，符号秩检验的 p 总在 0.05 之上


def options() -> Parser:
    """The command line."""
    made = parser(__doc__, folders=False)
    made.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="results_ARCH.json, two files or more")
    return made


def title(level: Level, say: Say) -> str:
    """What a level's metric is called."""
    return f"{level_label(level.name, say)} ROC AUC"


def over_classes(level: Level, labels: list[str], say: Say) -> str:
    """What the test over the classes says, and what it does not."""
    count, k = level.areas.shape
    if not level.differing:
        return say("The figures are the same in every class.", "每一类的数字都相同。")
    if k > 2:
        return _of_many(level, labels, say)
    if level.differing <= BEYOND:
        few = "one class differs" if level.differing == 1 else f"{level.differing} classes differ"
        least = f"{2.0 ** (1 - level.differing):.3g}"
        return say(
            f"Only {few}: over so few Wilcoxon's signed-rank test cannot show a difference, whatever "
            f"the figures (its smallest p is {least}). Nothing follows.",
            f"数字不同的类只有 {level.differing} 个：这样少，不论数字如何，Wilcoxon 符号秩检验都显示不出差异"
            f"（p 最小也有 {least}）。由此得不出任何结论。",
        )
    p, middle = level.signed_rank(), float(np.median(level.differences))
    test = say(
        f"Wilcoxon's signed-rank test over {count} classes, two-sided: p = {p:.2g}; median difference {middle:+.4f}.",
        f"{count} 类上的 Wilcoxon 符号秩检验（双侧）：p = {p:.2g}；差的中位数 {middle:+.4f}。",
    )
    if p >= ALPHA:
        return test + say(
            " No difference is shown. That does not show that the two are equal: more classes might tell them apart.",
            "没有显示出差异。这并不说明两者相同：类别多些，也许就分得出。",
        )
    better = labels[0] if level.leaning > 0 else labels[1]
    return test + say(
        f" The difference leans towards {better}. This is about classes such as these together: it says nothing of a "
        "single class, nor whether the difference matters.",
        f"差异偏向 {better}。这是就这样一些类别的整体而言：单独一类如何、差异是否要紧，它都不说明。",
    )


def _of_many(level: Level, labels: list[str], say: Say) -> str:
    """Friedman's test, and where it shows a difference Nemenyi's."""
    count, k = level.areas.shape
    if count < 2:
        return say("A test over classes needs two classes at least.", "各类之间的检验至少要两类。")
    statistic, p = level.friedman()
    ranks = ", ".join(f"{labels[m]} {level.ranks[m]:.2f}" for m in np.argsort(level.ranks, kind="stable"))
    test = say(
        f"Friedman's test of {k} methods over {count} classes: χ² = {statistic:.2f}, p = {p:.2g}. Mean ranks: {ranks}.",
        f"{k} 个方法在 {count} 类上的 Friedman 检验：χ² = {statistic:.2f}，p = {p:.2g}。平均名次：{ranks}。",
    )
    if p >= ALPHA:
        return test + say(
            " No difference is shown, and the ranks' order means nothing. This does not show that they are equal.",
            "没有显示出差异，名次的先后不说明什么。这也不说明它们相同。",
        )
    apart = [
        (one, other)
        for one in range(k)
        for other in range(k)
        if level.ranks[other] - level.ranks[one] >= level.critical_difference
    ]
    test += say(
        f" Nemenyi's critical difference is {level.critical_difference:.2f}: ",
        f"Nemenyi 的临界差是 {level.critical_difference:.2f}：",
    )
    pairs = "; ".join(
        say(f"{labels[one]} ranks above {labels[other]}", f"{labels[one]} 的名次高于 {labels[other]}")
        for one, other in apart
    )
    none = say("no two methods are told apart by it, although not all are alike", "它分不出任何两个，虽然并非个个相同")
    return f"{test}{pairs or none}" + say(
        ". Methods that are not told apart are not shown to be equal.", "。分不出的，并不因此相同。"
    )


def within_classes(level: Level, labels: list[str], say: Say) -> list[str]:
    """What the differences within the classes say; there is a sentence for every model but the first."""
    found = []
    for other, label in enumerate(labels[1:]):
        each = [(name, parts[other]) for name, parts in zip(level.classes, level.intervals, strict=True)]
        known = [(name, ends) for name, ends in each if ends]
        for better, beaten, sign in ((labels[0], label, 1), (label, labels[0], -1)):
            names = [name for name, ends in known if min(sign * end for end in ends) > 0]
            if names:
                among, listed = f"{len(names)} of {len(known)}", ", ".join(names)
                english = f"{better} above {beaten}, with an interval that leaves out 0, in {among} classes: {listed}."
                chinese = f"{better} 高于 {beaten}，区间不含 0 的，{len(known)} 类中有 {len(names)} 类：{listed}。"
                found.append(say(english, chinese))
        if known and not any(low > 0 or high < 0 for _, (low, high) in known):
            found.append(
                say(
                    f"{labels[0]} and {label}: no interval of {len(known)} leaves out 0.",
                    f"{labels[0]} 与 {label}：{len(known)} 个区间都含 0。",
                )
            )
    return found


def caveats(say: Say) -> str:
    """What all intervals are, and are not."""
    return say(
        "Intervals are of 95 %: at the image level DeLong's for paired scores, at the pixel level of a bootstrap over "
        "pictures. They stand for other test pictures of the same kind, not for other training pictures, seeds or "
        "classes, and each for itself: of twenty where nothing differs, one leaves out 0. – is not known.",
        "区间都是 95 % 的：图像级是 DeLong 对成对得分的，像素级是对图片的自助抽样。它们说的是换一批同类的测试图像，"
        "不是换训练图像、种子或类别；也是各算各的：没有差异的二十个里，约有一个不含 0。– 表示不知道。",
    )


def markdown(levels: list[Level], labels: list[str], left_out: list[str], say: Say) -> str:
    """The tables and the sentences, in a section for each level."""
    parts = []
    for level in levels:
        against = [f"{labels[0]} − {label}" for label in labels[1:]]
        lines = [[say("class", "类别"), *labels, *against], ["---"] + ["---:"] * (2 * len(labels) - 1)]
        for name, areas, differences, intervals in zip(
            level.classes, level.areas, level.differences, level.intervals, strict=True
        ):
            cells = [
                f"{d:+.4f} " + ("–" if ends is None else f"[{ends[0]:+.4f}, {ends[1]:+.4f}]")
                for d, ends in zip(differences, intervals, strict=True)
            ]
            lines.append([name, *(f"{area:.4f}" for area in areas), *cells])
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        sentences = [over_classes(level, labels, say), *within_classes(level, labels, say)]
        parts.append(f"## {title(level, say)}\n\n{table}\n" + "\n\n".join(sentences) + "\n")
    if left_out:
        names = ", ".join(left_out)
        parts.append(say(f"Not in all of the results: {names}.", f"不是各份结果里都有：{names}。") + "\n")
    return "\n".join([*parts, caveats(say) + "\n"])


def intervals(axes: Axes, level: Level, names: list[str]) -> None:
    """Draw differences with their intervals, a row each: of two models in the classes, or of several in one class."""
    rows = np.arange(len(names))
    each = [ends for parts in level.intervals for ends in parts]
    for row, difference, ends in zip(rows, level.differences.ravel(), each, strict=True):
        is_clear = ends is not None and (ends[0] > 0 or ends[1] < 0)
        if ends:
            axes.plot(ends, [row, row], color="0.35", lw=1.1)
        axes.plot(difference, row, "o", ms=4, color="0.35", mfc=style.IMAGE_COLOUR if is_clear else "white")
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(rows, [style.printable(name, 24) for name in names])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # 自上而下
    axes.locator_params(axis="x", nbins=5)


def ranks(drawing: Figure, level: Level, labels: list[str], top: float, say: Say) -> None:
    """Draw the diagram of critical differences, ``top`` inches below the figure's upper edge.

    Mean ranks on an axis, the best to the right, as the literature draws it; bars join what is not told apart.
    """
    k, mean, groups, (width, total) = len(labels), level.ranks, level.groups(), drawing.get_size_inches()
    body = _body(level)
    axes = drawing.add_axes((SIDE / width, 1 - (top + HEAD + body) / total, 1 - 2 * SIDE / width, body / total))
    left, right = k + 0.04 * (k - 1), 1 - 0.04 * (k - 1)  # 名次 1 在右
    axes.set(xlim=(left, right), ylim=(-body, 0), yticks=[], xticks=range(1, k + 1))  # 纵向以英寸为单位
    axes.xaxis.tick_top()
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.grid(False)

    def text(x: float, y: float, words: str, side: str, size: float = style.SMALL_SIZE) -> None:
        axes.text(x, y, words, ha=side, va="center", size=size)

    scope = say(f"mean rank over {len(level.classes)} classes", f"{len(level.classes)} 类的平均名次")
    text((left + right) / 2, HEAD - 0.12, f"{title(level, say)}{say(': ', '：')}{scope}", "center", style.TEXT_SIZE)
    end = k - min(level.critical_difference, k - 1)  # 比轴还长的，截在轴长
    axes.plot([k, end], [0.28, 0.28], "|-", color="black", lw=1.2, ms=6, clip_on=False)
    text((k + end) / 2, 0.4, say("critical difference ", "临界差 ") + f"{level.critical_difference:.2f}", "center")
    for i, group in enumerate(groups):
        ends = mean[group[0]] - 0.02 * (k - 1), mean[group[-1]] + 0.02 * (k - 1)
        axes.plot(ends, [-0.1 - BAR * i] * 2, color="black", lw=3, solid_capstyle="butt")
    # 名次好的一半从右边引出，其余从左边
    order, half = np.argsort(mean, kind="stable"), (k + 1) // 2
    for side, edge, members in (("left", right, order[:half]), ("right", left, order[half:][::-1])):
        for i, m in enumerate(members):
            height = -0.12 - BAR * len(groups) - LINE * (i + 0.5)
            axes.plot([mean[m], mean[m], edge], [0, height, height], color="0.35", lw=0.9, clip_on=False)
            text(edge, height, f" {shortened(labels[m], WIDEST)} ({mean[m]:.2f}) ", side)


def _body(level: Level) -> float:
    """How many inches the bars and a line for every second model take below the axis."""
    return 0.12 + BAR * len(level.groups()) + LINE * ((level.areas.shape[1] + 1) // 2)


def figure(levels: list[Level], labels: list[str], say: Say) -> Figure:
    """Draw the differences of two models, or of all in one class, and else the diagrams of critical differences."""
    first, *others = (shortened(label, WIDEST) for label in labels)
    only = {name for level in levels for name in level.classes}
    if len(others) == 1 or len(only) == 1:  # 一类之上没有名次可言
        rows = max(level.differences.size for level in levels)
        drawing = Figure((style.DOUBLE, 1 + 0.19 * rows), layout="constrained")
        for axes, level in zip(drawing.subplots(1, len(levels), squeeze=False)[0], levels, strict=True):
            intervals(axes, level, level.classes if len(others) == 1 else others)
            axes.set_title(title(level, say))
        words = others[0] if len(others) == 1 else f"…{say(', ', '，')}{style.printable(min(only))}"
        drawing.supxlabel(f"{first} − {words}", size=style.TEXT_SIZE)
        return drawing
    heights = [HEAD + _body(level) for level in levels]
    drawing = Figure((style.DOUBLE, sum(heights)))
    for i, level in enumerate(levels):
        ranks(drawing, level, labels, sum(heights[:i]), say)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``compare`` as a figure, and in words and tables as Markdown."""
    labels, models = open_files(args.results)
    every = [compared(models, name) for name in LEVELS]
    levels = [level for level in every if level.classes]
    if not levels:
        raise UserError("in no class all of these results have a ROC AUC; compare others")
    names = set().union(*(model.content["classes"] for model in models))
    left_out = style.class_order(names - {name for level in levels for name in level.classes})
    yield from save(figure(levels, labels, say), args, STEM)
    yield write_text(target(args, STEM, "md"), markdown(levels, labels, left_out, say))


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(draw, options().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
