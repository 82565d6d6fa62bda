"""Localization examples: rows of image, ground truth, heat map, predicted mask, segmentation.

定位示例：每行为图像、真值、热图、预测掩码、分割结果。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _options import Parser, parser, run, save
from _results import Results, chosen_classes, class_options, open_results
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from experiment import style
from experiment.figures import PANELS, panel_images
from padim.metrics import normalise
from system.errors import UserError
from experiment.style import Say

TITLES_ZH = ("图像", "真值", "预测热图", "预测掩码", "分割结果")
LEFT, TOP, BOTTOM, GAP, BAR, RIGHT = 0.2, 0.22, 0.06, 0.05, 0.09, 0.5  # 英寸：行名、列名、下边、间隔、色条及其刻度
PAGE = 9.2  # 英寸：一页放得下的高度


def options() -> Parser:
    """The command line."""
    made = class_options(parser(__doc__))
    made.add_argument("--index", type=int, nargs="+", metavar="I", help="test images to show, counted from 0")
    return made


def typical(kinds: np.ndarray, scores: np.ndarray) -> list[int]:
    """The median-scored image of the good ones and of every kind of defect, in this order."""
    order = sorted(set(kinds.tolist()), key=lambda k: (k != "good", k))
    chosen = []
    for each in order:
        members = np.flatnonzero(kinds == each)
        ranked = members[np.argsort(scores[members], kind="stable")]  # 按得分排，取正中的一张
        chosen.append(int(ranked[(len(ranked) - 1) // 2]))
    return chosen


def pixel_rocauc(results: Results) -> float:
    """The average over the classes; 0 where it is not known."""
    return (results.content["averages"].get("all") or {}).get("pixel_rocauc") or 0


def show(axes: Axes, panel: np.ndarray | None, say: Say) -> None:
    """One panel; grey where there is nothing to show."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if panel is None:
        axes.set_facecolor("0.93")
        axes.text(
            0.5, 0.5, say("not\navailable", "无数据"), transform=axes.transAxes, ha="center", va="center", color="0.35"
        )
    else:
        axes.imshow(panel, interpolation="antialiased", aspect="auto")


def figure(results: Results, name: str, wanted: list[int] | None, say: Say) -> Figure:
    """Rows of five panels for one class."""
    arrays = results.arrays(name)
    count = len(arrays["files"])
    maps, images = results.pixels(name, count)
    indices = wanted or typical(arrays["kinds"], arrays["image_scores"])
    if bad := [i for i in indices if not 0 <= i < count]:
        raise UserError(f"--index {bad[0]}: {name} has {count} test images, counted from 0")

    # 双栏宽；行数多时缩小，使整图不超出一页
    ratio = maps.shape[1] / maps.shape[2]
    width = (style.DOUBLE - LEFT - RIGHT - BAR - GAP * len(PANELS)) / len(PANELS)
    width = min(width, ((PAGE - TOP - BOTTOM) / len(indices) - GAP) / ratio)
    height = width * ratio
    total = LEFT + len(PANELS) * (width + GAP) + BAR + RIGHT, TOP + len(indices) * (height + GAP) - GAP + BOTTOM
    drawing = Figure(total)

    def place(x: float, y: float, w: float, h: float) -> Axes:  # 英寸，从左上角量起
        return drawing.add_axes((x / total[0], 1 - (y + h) / total[1], w / total[0], h / total[1]))

    for row, i in enumerate(indices):
        scores = normalise(np.asarray(maps[i]), arrays["score_min"], arrays["score_max"])  # 全类同一尺度
        truth = None if arrays["masks"] is None else arrays["masks"][i]
        y = TOP + row * (height + GAP)
        label = str(arrays["kinds"][i])
        label = style.printable(label if len(label) < 19 else label[:17] + "…")
        drawing.text(
            LEFT * 0.45 / total[0], 1 - (y + height / 2) / total[1], label,
            size=style.SMALL_SIZE, rotation=90, ha="center", va="center",
        )  # fmt: skip
        for column, panel in enumerate(panel_images(images[i], truth, scores, arrays["threshold"])):
            axes = place(LEFT + column * (width + GAP), y, width, height)
            show(axes, panel, say)
            if row == 0:
                axes.set_title(say(PANELS[column], TITLES_ZH[column]), pad=3, size=style.SMALL_SIZE)
    bar = place(LEFT + len(PANELS) * (width + GAP), TOP, BAR, total[1] - TOP - BOTTOM)  # 全图共用的色条
    drawing.colorbar(ScalarMappable(cmap=style.HEAT), cax=bar).set_label(
        f"{say('Anomaly score, ', '异常得分，')}{style.arch_label(results.store.key)}"
    )
    bar.grid(False)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``{class}``, from one architecture: the best by pixel ROC AUC, unless ``--arch`` names one."""
    results = max(open_results(args.result, args.arch), key=pixel_rocauc)
    for name in chosen_classes(results, args):
        yield from save(figure(results, name, args.index, say), args, name)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(draw, options().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
