"""The most unusual training pictures with their left-out maps; left-out scores beside those of the test pictures.

最不寻常的训练图像与它们留出后的异常图；留出后的得分与测试图像的得分；按批留出时，各批的得分。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _options import Script, colour_option
from _results import WITHOUT_GAUSSIANS, Results, architectures, raw_scores
from matplotlib.figure import Figure, SubFigure

from experiment.report import style
from experiment.report.colours import Colours
from experiment.report.figures import colour_bar, heat_over
from experiment.report.threshold import PERCENTILE, lots_that_stand_out, stands_out_from
from experiment.report.style import Line, Say

COLUMNS = 3  # 每格左右两幅：图像，叠加了异常图的图像
LEFT, HEAD, CAPTION, GAP, BAR, RIGHT = 0.05, 0.42, 0.19, 0.1, 0.09, 0.64  # 英寸；CAPTION：每格上方的得分与文件名
LEGEND, STRIP, NAMES, AXIS, MARGIN = 0.45, 0.6, 1.35, 0.42, 0.1  # 英寸：图例，一行分布的高与行名的宽，横轴，右边
PITCH = (style.DOUBLE - LEFT - BAR - RIGHT) / COLUMNS
PAGE = 9.2  # 英寸：一页放得下的高度
LOT, LOTS = 0.17, 12  # 英寸，一批的行高；至多画这么多批
BINS = 48
LEFT_OUT_COLOUR, ALONE_COLOUR, PERCENTILE_COLOUR = "0.45", "0.7", style.PALETTE[2]


def title(results: Results, name: str, left_out: list[float], count: int, by_lots: bool, say: Say) -> str:
    """What is shown and, in a second line, what is framed."""
    limit, n = stands_out_from(left_out), len(left_out)
    what = f"{style.printable(name, 30)}{say(', ', '，')}{style.arch_label(results.store.key)}{say(': ', '：')}" + say(
        f"the {count} most unusual of {n} training pictures, each scored as if {'its lot were ' * by_lots}left out",
        f"{n} 张训练图像中最不寻常的 {count} 张，{'按批' if by_lots else '逐张'}留出打分",
    )
    if limit is None:
        which = say("half of the scores are equal: none can stand out", "半数得分相同：无从说谁不合群")
    elif framed := sum(score > limit for score in left_out):
        which = say(
            f"framed: stands out, with a score above {limit:.1f} ({framed} of {n})",
            f"加框：不合群，得分高于 {limit:.1f}（{n} 张中有 {framed} 张）",
        )
    else:
        which = say(f"none stands out: no score is above {limit:.1f}", f"没有不合群的：得分都不高于 {limit:.1f}")
    return f"{what}\n{which}"


def caption(file: str, score: float) -> str:
    """The score, and the file's name without its folders and, where it is long, its middle."""
    return f"{score:.1f}   {style.printable(file.split('/')[-1], 25)}"


def side_by_side(picture: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    """A picture and its overlay, (H, W, 3) uint8 each, with a white seam between them."""
    seam = np.full((len(picture), max(1, picture.shape[1] // 50), 3), 255, np.uint8)
    return np.hstack([picture, seam, overlay])


def show_pictures(
    part: SubFigure, unusual: dict[str, Any], limit: float | None, size: float, colours: Colours, say: Say
) -> None:
    """Draw every picture beside its map, ``size`` inches high and framed where it stands out, on one colour scale."""
    maps, rows = unusual["maps"], -(-len(unusual["maps"]) // COLUMNS)
    total = HEAD + rows * (CAPTION + size)

    def place(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        return x / style.DOUBLE, 1 - (y + height) / total, width / style.DOUBLE, height / total  # 从左上角量起

    for i, (file, score, picture) in enumerate(zip(*(unusual[k] for k in ("files", "scores", "images")), strict=True)):
        panel = side_by_side(picture, heat_over(picture, maps[i], colours))
        x, y = LEFT + i % COLUMNS * PITCH, HEAD + CAPTION + i // COLUMNS * (CAPTION + size)
        axes = part.add_axes(place(x, y, size * panel.shape[1] / len(panel), size), xticks=[], yticks=[])
        axes.imshow(panel, interpolation="antialiased", aspect="auto")
        stands_out = limit is not None and score > limit
        colour = style.DEFECT_COLOUR if stands_out else "black"
        axes.spines[:].set(visible=stands_out, color=colour, linewidth=1.8)
        axes.set_title(caption(str(file), score), loc="left", pad=3, size=style.SMALL_SIZE, color=colour)
    bar = part.add_axes(place(style.DOUBLE - RIGHT - BAR, HEAD + CAPTION, BAR, total - HEAD - CAPTION))
    words = say("Left-out anomaly score", "留一异常得分"), say(colours.bar.english, colours.bar.chinese)
    colour_bar(bar, colours.bar, "\n".join(words), style.TEXT_SIZE)


def distributions(
    left_out: list[float], alone: list[float] | None, arrays: dict[str, Any] | None, say: Say
) -> list[tuple[str, str, np.ndarray]]:
    """The name, colour and raw scores of the training pictures, and of the good and the defective test pictures."""
    if alone is None:
        found = [(say("left-out training", "留一训练图像"), LEFT_OUT_COLOUR, np.array(left_out))]
    else:
        found = [(say("left out alone", "逐张留出的训练图像"), ALONE_COLOUR, np.array(alone))]
        found += [(say("left out by lots", "按批留出的训练图像"), LEFT_OUT_COLOUR, np.array(left_out))]
    if arrays is not None:
        # 留一得分没有归一化：测试图像的也还原，同一横轴才可比
        raw, defective = raw_scores(arrays), arrays["labels"] != 0
        found.append((say("good test", "正常测试图像"), style.NORMAL_COLOUR, raw[~defective]))
        found.append((say("defective test", "缺陷测试图像"), style.DEFECT_COLOUR, raw[defective]))
    return [each for each in found if len(each[2])]


def thresholds(
    left_out: list[float], alone: list[float] | None, arrays: dict[str, Any] | None, say: Say
) -> list[tuple[str, float, Line]]:
    """The name, raw score and look of each threshold."""
    en, zh = f"{PERCENTILE:g}th percentile of ", f"得分的第 {PERCENTILE:g} 百分位"
    words = (
        say(f"{en}the left-out scores", f"留一{zh}") if alone is None else say(f"{en}those by lots", f"按批留出{zh}")
    )
    # 百分位不用一个标签，F1 最佳的在测试标签上调得
    found = [(words, float(np.percentile(left_out, PERCENTILE)), Line(color=PERCENTILE_COLOUR, linestyle="-"))]
    if alone is not None:
        words = say(f"{en}those alone", f"逐张留出{zh}")
        found.append((words, float(np.percentile(alone, PERCENTILE)), Line(color=PERCENTILE_COLOUR, linestyle=":")))
    if arrays is not None and arrays["image_threshold_raw"] is not None:
        words = say("best F1 on the test labels", "测试标签上 F1 最佳")
        found.append((words, float(arrays["image_threshold_raw"]), Line(color="black", linestyle="--")))
    return found


def show_scores(
    part: SubFigure, strips: list[tuple[str, str, np.ndarray]], lines: list[tuple[str, float, Line]], say: Say
) -> None:
    """Draw the distributions below one another with the same bins, and the thresholds through all of them."""
    total = LEGEND + STRIP * len(strips) + AXIS
    place = {"left": NAMES / style.DOUBLE, "right": 1 - MARGIN / style.DOUBLE}
    place |= {"bottom": AXIS / total, "top": 1 - LEGEND / total, "hspace": 0.2}
    panels = part.subplots(len(strips), 1, sharex=True, squeeze=False, gridspec_kw=place)[:, 0]
    bins = np.histogram_bin_edges(np.concatenate([scores for _, _, scores in strips]), BINS)
    for axes, (words, colour, scores) in zip(panels, strips, strict=True):
        axes.hist(scores, bins, color=colour, ec="white", lw=0.3)
        axes.set_ylabel(f"{words}\nn = {len(scores)}", rotation=0, ha="right", va="center", size=style.SMALL_SIZE)
        axes.yaxis.set_label_coords(-0.05, 0.5)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=2)
        for words, at, line in lines:
            axes.axvline(at, lw=1.1, label=f"{words}{say(': ', '：')}{at:.1f}", **line)
    panels[0].margins(x=0.01)
    panels[-1].set_xlabel(say("Image score (maximum of the raw anomaly map)", "图像得分（原始异常图的最大值）"))
    part.legend(
        *panels[0].get_legend_handles_labels(), loc="lower center", ncols=2,
        bbox_to_anchor=(0.5, 1 - (LEGEND - 0.04) / total), borderaxespad=0,
    )  # fmt: skip


def lot_label(lot: str, count: int, say: Say) -> str:
    """A folder's name, or that of the first picture of those in a row, and how many pictures the lot has."""
    first, is_row, _ = lot.partition(" to ")
    name = style.printable(first.split("/")[-1], 17)
    return f"{say(f'from {name}', f'{name} 起') if is_row else name} ({count})"


def show_lots(part: SubFigure, left_out: list[float], lots: np.ndarray, say: Say) -> None:
    """Draw each lot's scores and their median, the highest on top; red is a lot that stands out as a whole."""
    scores, apart = np.array(left_out), lots_that_stand_out(left_out, lots.tolist())
    each = {lot: scores[lots == lot] for lot in dict.fromkeys(lots.tolist())}
    shown = sorted(each, key=lambda lot: np.median(each[lot]))[-LOTS:]
    total = LEGEND + LOT * len(shown) + AXIS
    axes = part.add_axes(
        (NAMES / style.DOUBLE, AXIS / total, 1 - (NAMES + MARGIN) / style.DOUBLE, LOT * len(shown) / total)
    )
    for row, lot in enumerate(shown):
        colour = style.DEFECT_COLOUR if lot in apart else LEFT_OUT_COLOUR
        axes.scatter(each[lot], np.full(len(each[lot]), row), s=7, alpha=0.4, lw=0, color=colour)
        axes.plot(np.median(each[lot]), row, "|", ms=9, mew=1.6, color="black")
    labels = [lot_label(lot, len(each[lot]), say) for lot in shown]
    axes.set_yticks(range(len(shown)), labels, size=style.SMALL_SIZE)
    for lot, label in zip(shown, axes.get_yticklabels(), strict=True):
        label.set_color(style.DEFECT_COLOUR if lot in apart else "black")
    axes.set(ylim=(-0.7, len(shown) - 0.3))
    axes.margins(x=0.01)
    axes.set_xlabel(
        say("Left-out score of each picture; bar: the lot's median", "各图留出后的得分；竖线：该批的中位数")
    )
    some = f"{len(shown)} / {len(each)}" if len(shown) < len(each) else f"{len(each)}"
    which = (
        say("in red those that stand out as a whole", "红色：整批不合群")
        if apart
        else say("none stands out", "没有不合群的")
    )
    axes.set_title(say(f"Lots ({some}): {which}", f"批次（{some}）：{which}"), loc="left", size=style.TEXT_SIZE)


def figure(results: Results, name: str, args: argparse.Namespace, say: Say) -> Figure:
    """Draw the pictures, the most unusual first; below them the distributions with the thresholds, then the lots."""
    left_out, alone, unusual = results.left_out(name)
    arrays = results.arrays(name) if results.store.arrays(name).exists() else None  # 没有测试图像的一类没有
    colours = results.colours(name, arrays or {}, args.colours)  # 与测试图像的热图同一尺度
    strips, count, lots = distributions(left_out, alone, arrays, say), len(unusual["files"]), unusual["lots"]

    # 双栏宽；图太高时缩小，使整图不超出一页
    below, rows = [LEGEND + STRIP * len(strips) + AXIS], -(-count // COLUMNS)
    if lots is not None:
        below.append(LEGEND + LOT * min(len(set(lots.tolist())), LOTS) + AXIS)
    height, width, _ = side_by_side(*unusual["images"][[0, 0]]).shape
    size = min((PITCH - GAP) * height / width, (PAGE - HEAD - sum(below)) / rows - CAPTION)
    above = HEAD + rows * (CAPTION + size)
    drawing = Figure((style.DOUBLE, above + sum(below)))
    parts = drawing.subfigures(1 + len(below), 1, squeeze=False, height_ratios=(above, *below), hspace=0)[:, 0]

    words = title(results, name, left_out, count, lots is not None, say)
    parts[0].text(LEFT / style.DOUBLE, 1 - 0.06 / above, words, va="top", linespacing=1.5, size=style.TEXT_SIZE)
    show_pictures(parts[0], unusual, stands_out_from(left_out), size, colours, say)
    show_scores(parts[1], strips, thresholds(left_out, alone, arrays, say), say)
    if lots is not None:
        show_lots(parts[2], left_out, lots, say)
    return drawing


def with_left_out(root: Path) -> list[str]:
    """The models in a result folder that have left-out scores."""
    return [arch for arch in architectures(root) if any(root.glob(f"temp_{arch}/*_left_out.npz"))]


SCRIPT = Script(
    "training_pictures",
    __doc__,
    figure,
    own_options=colour_option,
    each_class=True,
    lacking=WITHOUT_GAUSSIANS,
    which="left_out",
    on_request=with_left_out,
)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
