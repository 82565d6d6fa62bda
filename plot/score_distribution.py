"""Image-score distributions of normal and defective test images, with the image threshold.

正常与有缺陷的测试图像的得分分布，及图像阈值。
"""

import _root  # noqa: F401, I001

import argparse
import sys

import numpy as np
from _options import Script
from _results import Results, raw_scores
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from experiment.report import style
from experiment.report.threshold import class_thresholds
from experiment.report.style import Say

COLUMNS, BINS = 5, 20
LOW, MOST = 1 / 3, 0.9  # 九成得分不到范围的三分之一：横轴取对数


def is_crowded(scores: np.ndarray) -> bool:
    """Whether a few scores are so high that all others would share the first bins; and logarithms exist."""
    low, high = scores.min(), scores.max()
    return bool(low > 0 and np.mean(scores < low + LOW * (high - low)) >= MOST)


def show_class(axes: Axes, results: Results, name: str, ticks: int, say: Say) -> None:
    """Draw one panel: the raw scores of normal and of defective pictures, and the threshold."""
    arrays = results.arrays(name)
    scores, threshold = raw_scores(arrays), class_thresholds(results.store, name, arrays).decision
    shown = scores if threshold is None else np.append(scores, threshold)  # 由好图得分而来的阈值，可能在所有得分之上
    low, high = float(shown.min()), float(shown.max())
    if is_crowded(scores) and low > 0:
        axes.set_xscale("log")
        bins = np.geomspace(low, high, 2 * BINS + 1).tolist()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=4))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(say("logarithmic", "对数坐标"), size=style.SMALL_SIZE, labelpad=1)
    else:
        bins = np.linspace(low, high if high > low else low + 1, BINS + 1).tolist()
        axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    for label, colour in ((0, style.NORMAL_COLOUR), (1, style.DEFECT_COLOUR)):
        own = scores[arrays["labels"] == label]
        # 半透明的填充，重叠处也看得出；再描边
        axes.hist(own, bins, histtype="stepfilled", color=colour, alpha=0.45)
        axes.hist(own, bins, histtype="step", color=colour, lw=0.9)
    if threshold is not None:
        axes.axvline(threshold, color="black", ls="--", lw=0.9)
    axes.set_title(style.printable(name, 20))
    axes.margins(x=0.02)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))


def figure(results: Results, args: argparse.Namespace, say: Say) -> Figure:
    """Draw a panel for each class, with an axis of its own."""
    names = results.classes
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    width = style.DOUBLE if columns > 2 else style.SINGLE
    drawing = Figure((width, 0.75 + (1.35 if columns > 2 else 1.55) * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.remove()  # 末行空着的格子
    for name, axes in zip(names, panels.flat, strict=False):
        show_class(axes, results, name, 3 if columns > 2 else 5, say)
    drawing.supxlabel(say("Image score, raw", "图像得分（未归一化）"), size=style.TEXT_SIZE)
    drawing.supylabel(say("Test images", "测试图像数"), size=style.TEXT_SIZE)
    keys = [
        Patch(color=style.NORMAL_COLOUR, alpha=0.6, label=say("normal", "正常")),
        Patch(color=style.DEFECT_COLOUR, alpha=0.6, label=say("defective", "缺陷")),
        Line2D([], [], color="black", ls="--", lw=0.9, label=say("image threshold", "图像阈值")),
    ]
    drawing.legend(handles=keys, loc="outside upper center", ncols=3)
    return drawing


SCRIPT = Script("score_distribution", __doc__, figure)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
