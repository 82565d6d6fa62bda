"""Pixel-level precision–recall curves of all classes, with the point of the best F1.

各类的像素级精确率–召回率曲线，标出最佳 F1 之处（原代码的分割阈值）。
"""

import _root  # noqa: F401, I001

import argparse
import sys

import numpy as np
from _options import Script
from _results import WITHOUT_MAPS, Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.report import style
from experiment.report.style import Say


def best_point(curve: np.ndarray) -> np.ndarray:
    """The point (2,) with the largest F1 on a thinned curve (K, 2) of recall and precision."""
    recall, precision = curve.T
    f1 = 2 * recall * precision / np.maximum(recall + precision, np.finfo(float).tiny)  # 两者都为 0 处，F1 为 0
    return curve[f1.argmax()]


def equal_f1_lines(axes: Axes) -> None:
    """Draw grey lines on which F1 is 0.2, 0.4, 0.6 and 0.8, labelled at the right edge."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / (2 - f1), 1, 100)  # 由精确率为 1 处起
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="0.8", lw=0.6)  # 由 F1 的定义解出精确率
        axes.text(1.02, f1 / (2 - f1), f"F1 {f1}", size=style.SMALL_SIZE, color="0.45", va="center")


def figure(results: Results, args: argparse.Namespace, say: Say) -> Figure:
    """Draw one panel with its legend beside it."""
    lines = style.class_lines(results.classes)
    drawing = Figure((style.DOUBLE, 3.4), layout="constrained")
    axes = drawing.subplots()
    equal_f1_lines(axes)
    for name, (arrays, f1) in results.measured("pixel_pr", "pixel_f1", "pixel-level curve").items():
        best_at = say(f": F1 {f1:.3f} at {arrays['threshold']:.3f}", f"：F1 {f1:.3f}，阈值 {arrays['threshold']:.3f}")
        label = style.printable(name, 22) + best_at
        axes.plot(*arrays["pixel_pr"].T, label=label, **lines[name])
        colour = lines[name]["color"]
        axes.plot(*best_point(arrays["pixel_pr"]), "o", zorder=3, ms=4, color=colour, mec="white", mew=0.6)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel=say("Recall", "召回率"), ylabel=say("Precision", "精确率"))
    axes.set_title(say("Pixel level; dots: best F1", "像素级，圆点为最佳 F1"))
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.17, 0.5), handlelength=2.4,
        title=say("Best F1 and its threshold", "最佳 F1 及其阈值"), alignment="left",
    )  # fmt: skip
    legend.get_title().set_fontsize(style.TEXT_SIZE)
    return drawing


SCRIPT = Script("precision_recall", __doc__, figure, lacking=WITHOUT_MAPS)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
