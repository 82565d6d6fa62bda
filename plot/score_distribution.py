"""Image-score distributions of normal and defective test images, with the image threshold.

正常与有缺陷的测试图像的得分分布，及图像阈值。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _options import Parser, parser, run, save
from _results import Results, normalised_threshold, open_results
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiment.report import style
from experiment.report.style import Say

COLUMNS, BINS = 5, np.linspace(0, 1, 21)


def options() -> Parser:
    """The command line."""
    return parser(__doc__)


def figure(results: Results, say: Say) -> Figure:
    """A panel a class; all share the normalised score's axis."""
    names = results.classes
    columns = min(COLUMNS, len(names)) if len(names) > 3 else max(2, len(names))
    rows = -(-len(names) // columns)
    width = style.DOUBLE if columns > 2 else style.SINGLE
    drawing = Figure((width, 0.75 + (1.25 if columns > 2 else 1.45) * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, sharex=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.remove()  # 末行空着的格子
    highest = 1.0  # 由好图得分而来的阈值，可能在所有测试图片之上
    for name, axes in zip(names, panels.flat, strict=False):
        arrays = results.arrays(name)
        for label, colour in ((0, style.NORMAL_COLOUR), (1, style.DEFECT_COLOUR)):
            scores = arrays["image_scores"][arrays["labels"] == label]
            # 半透明的填充，重叠处也看得出；再描边
            axes.hist(scores, BINS, histtype="stepfilled", color=colour, alpha=0.45)
            axes.hist(scores, BINS, histtype="step", color=colour, lw=0.9)
        threshold = normalised_threshold(results, name, arrays)
        if threshold is not None:
            axes.axvline(threshold, color="black", ls="--", lw=0.9)
            highest = max(highest, 1.03 * threshold if threshold > 1 else 1)
        axes.set_title(style.printable(name))
        axes.set(xlim=(0, highest), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    drawing.supxlabel(say("Image score, normalised over the class", "图像得分（按类别归一化）"), size=style.TEXT_SIZE)
    drawing.supylabel(say("Test images", "测试图像数"), size=style.TEXT_SIZE)
    keys = [
        Patch(color=style.NORMAL_COLOUR, alpha=0.6, label=say("normal", "正常")),
        Patch(color=style.DEFECT_COLOUR, alpha=0.6, label=say("defective", "缺陷")),
        Line2D([], [], color="black", ls="--", lw=0.9, label=say("image threshold", "图像阈值")),
    ]
    drawing.legend(handles=keys, loc="outside upper center", ncols=3)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``score_distribution_{arch}``."""
    for results in open_results(args.result, args.arch):
        yield from save(figure(results, say), args, f"score_distribution_{style.arch_short(results.store.key)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(draw, options().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
