"""Localization examples: rows of image, ground truth, heat map, predicted mask, segmentation; or models side by side.

定位示例：每行为图像、真值、热图、预测掩码、分割结果；或各模型的热图并排。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _options import Parser, Script, colour_option, save
from _results import WITHOUT_MAPS, Results, check_same_pictures, chosen_classes
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.methods import split_key
from experiment.report import style
from experiment.report.colours import Bar, Colours
from experiment.report.figures import PANELS, colour_bar, panel_pictures
from system.errors import UserError
from experiment.report.style import Say

TITLES_ZH = ("图像", "真值", "预测热图", "预测掩码", "分割结果")
LEFT, TITLE, BOTTOM, GAP, BAR, RIGHT = 0.2, 0.13, 0.06, 0.05, 0.09, 0.64  # 英寸；TITLE：一行列名
PAGE = 9.2  # 英寸：一页放得下的高度
Rows = list[list[np.ndarray | None]]


def own_options(made: Parser) -> None:
    """Add ``--colours``, ``--index`` and ``--compare``."""
    colour_option(made)
    made.add_argument("--index", type=int, nargs="+", metavar="I", help="test images to show, counted from 0")
    made.add_argument("--compare", action="store_true", help="the heat maps of all models (--arch) beside one another")


def typical(kinds: np.ndarray, scores: np.ndarray) -> list[int]:
    """The median-scored picture of the good ones and of every kind of defect, in this order."""
    order = sorted(set(kinds.tolist()), key=lambda k: (k != "good", k))
    chosen = []
    for each in order:
        members = np.flatnonzero(kinds == each)
        ranked = members[np.argsort(scores[members], kind="stable")]  # 按得分排，取正中的一张
        chosen.append(int(ranked[(len(ranked) - 1) // 2]))
    return chosen


def best(models: list[Results], name: str) -> Results:
    """Of the models with a class the one to show: scored before not, PaDiM before others, then by its pixel ROC AUC."""

    def merit(results: Results) -> tuple[bool, bool, float]:
        is_padim = split_key(results.store.key)[0] == "padim"
        return name in results.classes, is_padim, results.row(name)["pixel_rocauc"] or 0  # 没有掩码的类别没有这一项

    return max((each for each in models if name in each.content["classes"]), key=merit)


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


def chosen_images(arrays: dict[str, Any], name: str, wanted: list[int] | None) -> list[int]:
    """The indices of ``--index``, by default `typical` ones."""
    count = len(arrays["files"])
    indices = wanted or typical(arrays["kinds"], arrays["image_scores"])
    if bad := [i for i in indices if not 0 <= i < count]:
        raise UserError(f"--index {bad[0]}: {name} has {count} test images, counted from 0")
    return indices


def panels(results: Results, name: str, arrays: dict[str, Any], indices: list[int], colours: Colours) -> Rows:
    """The five panels of each of these test pictures."""
    maps, images = results.pixels(name, len(arrays["files"]))
    rows = []
    for i in indices:
        truth = None if arrays["masks"] is None else arrays["masks"][i]
        rows.append(panel_pictures(images[i], truth, np.asarray(maps[i]), colours))
    return rows


def sheet(titles: list[str], labels: list[str], rows: Rows, whose: str, bar: Bar, say: Say) -> Figure:
    """Rows of panels under their titles, with their labels before and one colour bar behind them."""
    # 双栏宽；行数多时缩小，使整图不超出一页
    columns, top = len(titles), 0.1 + TITLE * max(title.count("\n") + 1 for title in titles)
    first = np.asarray(rows[0][0])  # 图片本身，总是有的
    ratio = first.shape[0] / first.shape[1]
    width = (style.DOUBLE - LEFT - RIGHT - BAR - GAP * columns) / columns
    width = min(width, ((PAGE - top - BOTTOM) / len(rows) - GAP) / ratio)
    height = width * ratio
    total = LEFT + columns * (width + GAP) + BAR + RIGHT, top + len(rows) * (height + GAP) - GAP + BOTTOM
    drawing = Figure(total)

    def place(x: float, y: float, w: float, h: float) -> Axes:  # 英寸，从左上角量起
        return drawing.add_axes((x / total[0], 1 - (y + h) / total[1], w / total[0], h / total[1]))

    for row, (label, shown) in enumerate(zip(labels, rows, strict=True)):
        y = top + row * (height + GAP)
        words = style.printable(label, 18)
        drawing.text(
            LEFT * 0.45 / total[0], 1 - (y + height / 2) / total[1], words,
            size=style.SMALL_SIZE, rotation=90, ha="center", va="center",
        )  # fmt: skip
        for column, panel in enumerate(shown):
            axes = place(LEFT + column * (width + GAP), y, width, height)
            show(axes, panel, say)
            if row == 0:
                axes.set_title(titles[column], pad=3, size=style.SMALL_SIZE, linespacing=1.3)
    axes = place(LEFT + columns * (width + GAP), top, BAR, total[1] - top - BOTTOM)  # 全图共用的色条
    colour_bar(axes, bar, f"{whose}\n{say(bar.english, bar.chinese)}", style.TEXT_SIZE)
    return drawing


def figure(results: Results, name: str, args: argparse.Namespace, say: Say) -> Figure:
    """Rows of five panels for one class."""
    arrays, wanted = results.arrays(name), args.index
    colours = results.colours(name, arrays, args.colours)
    indices = chosen_images(arrays, name, wanted)
    titles = [say(english, chinese) for english, chinese in zip(PANELS, TITLES_ZH, strict=True)]
    whose = f"{say('Anomaly score, ', '异常得分，')}{style.arch_label(results.store.key)}"
    labels = [str(arrays["kinds"][i]) for i in indices]
    return sheet(titles, labels, panels(results, name, arrays, indices, colours), whose, colours.bar, say)


def scored_by_several(found: list[Results], args: argparse.Namespace) -> dict[str, list[Results]]:
    """The classes of ``--class`` and ``--all``, each with the models that have scored it, which must be two."""
    names = style.class_order(name for results in found for name in results.classes)
    several = {n: models for n in names if len(models := [each for each in found if n in each.classes]) > 1}
    if not several or (args.name and args.name not in several):
        raise UserError(
            f"--compare: no two models with anomaly maps have scored {args.name or 'the same class'} in "
            f"{str(args.result)!r} (--result, --arch); run main.py with another --method or --arch first"
        )
    chosen = several if args.all else [args.name or next(iter(several))]
    return {name: several[name] for name in chosen}


def comparison(models: list[Results], name: str, args: argparse.Namespace, say: Say) -> Figure:
    """Rows of image, ground truth and every model's heat map for one class."""
    check_same_pictures(name, models)
    arrays = [each.arrays(name) for each in models]
    indices = chosen_images(arrays[0], name, args.index)
    # 并排的图，颜色说的是同一件事：有一个默认按阈值，就都按阈值
    scale = args.colours or ("threshold" if any(each.scale(name) == "threshold" for each in models) else "class")
    colours = [each.colours(name, its, scale) for each, its in zip(models, arrays, strict=True)]
    found = [panels(each, name, its, indices, own) for each, its, own in zip(models, arrays, colours, strict=True)]
    # 图像与真值取自第一个模型，其后是各模型的热图
    rows = [[*rows[0][:2], *(row[2] for row in rows)] for rows in zip(*found, strict=True)]
    titles = [say(PANELS[k], TITLES_ZH[k]) for k in range(2)]
    titles += [label.replace(" (", "\n(") for label in style.arch_labels(each.store.key for each in models).values()]
    bars = {each.bar for each in colours}
    bar = bars.pop() if len(bars) == 1 else Bar("each on its own scale", "各取自己的尺度", 0, 1)
    labels = [str(arrays[0]["kinds"][i]) for i in indices]
    return sheet(titles, labels, rows, say("Anomaly score", "异常得分"), bar, say)


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``{class}``, from PaDiM's best model for it unless ``--arch`` names one; or ``comparison_{class}``."""
    found = SCRIPT.results(args.result, args.arch)
    if args.compare:
        for name, models in scored_by_several(found, args).items():
            yield from save(comparison(models, name, args, say), args, f"comparison_{name}")
        return
    for name in chosen_classes(args, *found):
        yield from save(figure(best(found, name), name, args, say), args, name)


SCRIPT = Script(
    "localization", __doc__, draw=draw, own_options=own_options, each_model=False, each_class=True, lacking=WITHOUT_MAPS
)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
