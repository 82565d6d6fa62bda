"""Whether thresholds can be believed: the share of good test pictures above one against the share expected.

阈值可不可信：高于阈值的正常测试图像的比例，对照应有的比例。

The threshold at the k-th highest of n left-out (or validation) scores is passed by k/(n + 1) of new good pictures on
average, where these are drawn as the n were: the curve is the distribution function of the p values of `predict.py`.
How many of m test pictures pass it varies, since both the scores and the test pictures are samples: it is
beta-binomial with m trials and the parameters k and n + 1 − k.
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from _options import Script, save
from _results import WITHOUT_GAUSSIANS, Results, raw_scores
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiment.report import style
from experiment.report.style import Say
from system.errors import UserError

COLUMNS, WIDE = 5, 3  # 一行至多几格；至多几类时格子画得大
TICKS, FEW_TICKS = (0.01, 0.05, 0.1, 0.25, 0.5, 1), (0.01, 0.05, 0.25, 1)
BAND = 0.95
KEYS = 3  # 图例一行几项
BAND_COLOUR = "0.86"

Curve = tuple[np.ndarray, np.ndarray, int, int]  # 应有的比例，实际的比例，n，m


def curve(left_out: Sequence[float], good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected and actual share above the threshold at each left-out score.

    Parameters
    ----------
    left_out : sequence of float
        The n scores of good pictures that thresholds come from.
    good : ndarray, (m,)
        Scores of the good test pictures.

    Returns
    -------
    expected, actual : ndarray, (n + 2,)
        k/(n + 1) for k = 0 … n + 1, and the share of test pictures whose p value is at most that.
    """
    n, ordered = len(left_out), np.sort(left_out)
    ranks = 1 + n - np.searchsorted(ordered, good, side="left")  # p 值乘以 n + 1
    passed = np.bincount(ranks, minlength=n + 2).cumsum()
    return np.arange(n + 2) / (n + 1), passed / len(good)


def band(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Between which shares (n + 2,) chance leaves the actual one, at each threshold for itself."""
    from scipy.stats import betabinom  # 导入要半秒：只读声明的 all.py 不必等它

    k = np.arange(1, n + 1)
    ends = (betabinom.ppf(q, m, k, n + 1 - k) / m for q in ((1 - BAND) / 2, (1 + BAND) / 2))
    low, high = (np.concatenate([[0], share, [1]]) for share in ends)
    return low, high


def curves(results: Results, scores_of: Callable[[str], list[float] | None]) -> dict[str, Curve]:
    """The curve of every class that has scores for a threshold and good test pictures."""
    found = {}
    for name in results.classes:
        left_out, arrays = scores_of(name), results.arrays(name)
        good = raw_scores(arrays)[arrays["labels"] == 0]
        if left_out and len(good):
            found[name] = (*curve(left_out, good), len(left_out), len(good))
    return found


def show(axes: Axes, name: str, shown: dict[str, Curve], looks: dict[str, style.Line], say: Say) -> None:
    """Draw a class: a line for each result, and the band for each number of pictures."""
    counts = dict.fromkeys((n, m) for _, _, n, m in shown.values())
    for n, m in counts:
        axes.fill_between(np.arange(n + 2) / (n + 1), *band(n, m), color=BAND_COLOUR, lw=0)
    axes.plot([0, 1], [0, 1], color="0.45", lw=0.7)
    for label, (expected, actual, _, _) in shown.items():
        axes.plot(expected, actual, label=label, **looks[label])
    # 平方根刻度：用得上的阈值都在左下角；二项分布的波动在此刻度下也处处相近
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    lines = [say(f"{n} scores, {m} pictures", f"{n} 个得分，{m} 张图像") for n, m in counts]
    axes.set_title("\n".join([style.printable(name, 20), *lines]), linespacing=1.3)


def figure(found: dict[str, dict[str, Curve]], say: Say) -> Figure:
    """Draw a panel for each class, and in it a line for each result; all panels share the axes."""
    names = style.class_order(name for each in found.values() for name in each)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    side = 2.4 if len(names) <= WIDE else style.DOUBLE / COLUMNS
    a_line = 1 if columns == 1 else KEYS  # 一格宽的图，一行只放得下一项
    head = 0.25 + 0.2 * -(-(len(found) + 1) // a_line)  # 英寸：图例的各行
    drawing = Figure((side * columns, head + (0.98 * side + 0.2) * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.remove()  # 末行空着的格子
    looks = {label: style.class_line(i) for i, label in enumerate(found)}
    ticks = TICKS if len(names) <= WIDE else FEW_TICKS
    for name, axes in zip(names, panels.flat, strict=False):
        show(axes, name, {label: each[name] for label, each in found.items() if name in each}, looks, say)
        words = [f"{100 * tick:g}" for tick in ticks]
        axes.set(xticks=ticks, xticklabels=words, yticks=ticks, yticklabels=words)
    expected = say("Share expected above the threshold (%)", "应高于阈值的比例（%）")
    actual = say("Good test pictures above it (%)", "高于阈值的正常测试图像（%）")
    drawing.supxlabel(expected, size=style.TEXT_SIZE)
    drawing.supylabel(actual, size=style.TEXT_SIZE)
    keys = [
        Line2D([], [], label=style.printable(label, 34), color=look["color"], ls=look["linestyle"])
        for label, look in looks.items()
    ]
    chance = say(f"what chance explains ({BAND:.0%})", f"偶然所能解释的（{BAND:.0%}）")
    drawing.legend(
        handles=[*keys, Patch(color=BAND_COLOUR, label=chance)],
        loc="outside upper center",
        ncols=a_line,
        columnspacing=1,
    )
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``calibration_{arch}``."""
    opened = [results for root in args.result for results in SCRIPT.results(root, args.arch)]
    for key in dict.fromkeys(results.store.key for results in opened):
        same = [results for results in opened if results.store.key == key]
        folders = [results.store.root for results in same]
        found: dict[str, dict[str, Curve]] = {}
        for results, folder in zip(same, folders, strict=True):
            if not (each := curves(results, results.good_scores)):
                raise UserError(
                    f"{str(results.store.results)!r} has no class with good test pictures and left-out or validation "
                    f"scores; make left-out ones with: {results.with_left_out}"
                )
            is_unique = [other.name for other in folders].count(folder.name) == 1
            label = [folder.name if is_unique else str(folder)] if len(same) > 1 else []
            between = say(": ", "：")
            if alone := curves(results, results.alone_scores):
                found[between.join([*label, say("left out alone", "逐张留出")])] = alone
                label.append(say("left out by lots", "按批留出"))
            found[between.join(label) or say("good test pictures", "正常测试图像")] = each
        yield from save(figure(found, say), args, f"calibration_{style.arch_short(key)}")


SCRIPT = Script("calibration", __doc__, draw=draw, several=True, lacking=WITHOUT_GAUSSIANS)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
