"""The model's parameters at a glance: layers, kept dimensions, receptive fields, memory.

模型参数一览：各层、保留的通道、感受野、内存（论文 III.A、III.B）。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from _options import Script
from _results import WITHOUT_GAUSSIANS, Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiment.report import style
from experiment.report.style import Say


@dataclass(frozen=True)
class Parameters:
    """What a fitted class consists of.

    Attributes
    ----------
    kept : list of int
        How many of the random dimensions fall in each layer.
    positions, dimensions : int
        P and d.
    mean_values, covariance_values : int
        Numbers stored: P·d and P·d·d, float32.
    """

    kept: list[int]
    positions: int
    dimensions: int

    @property
    def mean_values(self) -> int:
        return self.positions * self.dimensions

    @property
    def covariance_values(self) -> int:
        return self.positions * self.dimensions**2

    @property
    def values(self) -> int:
        return self.mean_values + self.covariance_values


def count(record: dict[str, Any]) -> Parameters:
    """The parameters of a class from its provenance."""
    edges = np.cumsum([0] + [layer["channels"] for layer in record["layers"]])  # 拼接后各层的起止
    kept = np.histogram(record["dimensions"], edges)[0].tolist()  # 抽中的通道落在各层的个数
    first = record["layers"][0]
    return Parameters(kept, first["height"] * first["width"], len(record["dimensions"]))


def size(values: int) -> str:
    """The memory that float32 numbers take."""
    amount = 4 * values / 1e6  # float32
    return f"{amount:.1f} MB" if amount < 1000 else f"{amount / 1000:.2f} GB"


def barcode(axes: Axes, record: dict[str, Any], say: Say) -> None:
    """Draw all channels in a row, and mark the kept ones in their layer's colour."""
    start = 0
    is_chosen = record["reduction"] != "pca"  # 主成分由所有通道合成，没有哪些通道被保留
    for layer, colour in zip(record["layers"], cycle(style.LAYER_COLOURS), strict=False):
        end = start + layer["channels"]
        axes.add_patch(Rectangle((start, 0), end - start, 1, fc=colour, ec="none", alpha=0.22))
        inside = [c for c in record["dimensions"] if is_chosen and start <= c < end]
        axes.vlines(np.add(inside, 0.5), 0, 1, color=colour, lw=min(1.2, 400 / record_total(record)))  # 保留的通道
        axes.text((start + end) / 2, 1.12, layer["name"], ha="center", va="bottom")
        start = end
    axes.set(
        xlim=(0, start),
        ylim=(0, 1),
        yticks=[],
        xlabel=say("channel of the concatenated layers", "各层拼接后的通道序号"),
    )
    axes.spines["left"].set_visible(False)
    axes.grid(False)


def record_total(record: dict[str, Any]) -> int:
    """t_d, the channels of all layers together."""
    return sum(layer["channels"] for layer in record["layers"])


def receptive_fields(axes: Axes, record: dict[str, Any], say: Say) -> None:
    """Draw what one value of each layer sees, to scale in the input picture."""
    height, width = record["size"]
    axes.add_patch(Rectangle((0, 0), width, height, fc="0.95", ec="0.4"))
    # 居中叠放，大的在下
    for layer, colour in reversed(list(zip(record["layers"], cycle(style.LAYER_COLOURS), strict=False))):
        field = layer["receptive_field"]
        corner = (width - field) / 2, (height - field) / 2
        axes.add_patch(Rectangle(corner, field, field, fc=colour, ec="none", alpha=0.45))
        axes.add_patch(Rectangle(corner, field, field, fc="none", ec=colour, lw=1.2))
        axes.text(width / 2, corner[1] + field - 4, str(field), ha="center", va="top", size=style.SMALL_SIZE)
    widest = max(layer["receptive_field"] for layer in record["layers"])
    x, y = (max(0, widest - side) / 2 + 4 for side in (width, height))
    axes.set(xlim=(-x, width + x), ylim=(-y, height + y), aspect="equal")
    size = f"{height} × {width}"
    axes.set_title(say(f"Receptive fields (px)\nin the {size} picture", f"{size} 图像中的\n感受野（像素）"))
    axes.axis("off")


def table(axes: Axes, lines: list[list[str]], places: list[float], rule: int | None = None) -> None:
    """Draw rows of text; the first is the heading, with a rule below it and one before row ``rule``."""
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(len(lines) - 0.35, -0.65))
    for row, line in enumerate(lines):
        for x, (place, words) in enumerate(zip(places, line, strict=True)):
            axes.text(place, row, words, ha="left" if x == 0 else "right", va="center", size=style.SMALL_SIZE)
    # 三线表
    for y in (-0.6, 0.5, len(lines) - 0.4, *([] if rule is None else [rule - 0.5])):
        axes.plot([0, 1], [y, y], color="0.2", lw=0.6, clip_on=False)


def layer_lines(record: dict[str, Any], parameters: Parameters, say: Say) -> list[list[str]]:
    """The table of the layers."""
    heading = say("layer output channels kept stride", "层 输出 通道 保留 步长").split()
    lines = [[*heading, say("receptive field", "感受野")]]
    for layer, kept in zip(record["layers"], parameters.kept, strict=True):
        output = f"{layer['height']} × {layer['width']}"
        chosen = "–" if record["reduction"] == "pca" else kept
        numbers = layer["channels"], chosen, layer["stride"], layer["receptive_field"]
        lines.append([layer["name"], output, *map(str, numbers)])
    return [*lines, [say("together", "合计"), "", str(record_total(record)), str(parameters.dimensions), "", ""]]


def gaussian_lines(parameters: Parameters, classes: list[Parameters], say: Say) -> list[list[str]]:
    """The table of the Gaussians."""
    shape = f"{parameters.positions} × {parameters.dimensions}"
    mean, covariance = parameters.mean_values, parameters.covariance_values
    rows = [
        (say("means", "均值"), shape, mean),
        (say("covariances", "协方差"), f"{shape} × {parameters.dimensions}", covariance),
        (say("one class", "每类"), "", parameters.values),
        (say(f"classes at hand: {len(classes)}", f"现有 {len(classes)} 类"), "", sum(p.values for p in classes)),
    ]
    heading = [say("Gaussian parameters", "高斯参数"), say("shape", "形状"), say("numbers", "个数"), "float32"]
    return [heading, *([name, form, f"{values:,}", size(values)] for name, form, values in rows)]


def figure(results: Results, args: argparse.Namespace, say: Say) -> Figure:
    """Draw the channels of the first class, and below them two tables and the receptive fields."""
    records = [results.provenance(name) for name in results.classes]
    record, classes = records[0], [count(each) for each in records]
    parameters = classes[0]
    layers, gaussians = layer_lines(record, parameters, say), gaussian_lines(parameters, classes, say)
    drawing = Figure((style.DOUBLE, 3.6), layout="constrained")
    panels = drawing.subplot_mosaic("aaa;bbd;ccd", height_ratios=(0.5, 1, 1), gridspec_kw={"hspace": 0.12})
    barcode(panels["a"], record, say)
    table(panels["b"], layers, [0, 0.32, 0.48, 0.62, 0.76, 1], rule=len(layers) - 1)
    table(panels["c"], gaussians, [0, 0.56, 0.8, 1], rule=3)
    receptive_fields(panels["d"], record, say)
    kept, total = parameters.dimensions, record_total(record)
    title = say(f"{kept} of {total} channels kept", f"{total} 个通道中保留 {kept} 个")
    if record["reduction"] == "pca":
        title = say(f"{total} channels projected onto {kept} components", f"{total} 个通道投影到 {kept} 个主成分")
    drawing.suptitle(f"{style.arch_label(results.store.key)}{say(': ', '：')}{title}", size=style.TEXT_SIZE)
    return drawing


SCRIPT = Script("model_parameters", __doc__, figure, lacking=WITHOUT_GAUSSIANS, which="every")
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
