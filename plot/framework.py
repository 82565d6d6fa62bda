"""The method as a diagram: images, backbone, feature maps, embedding, Gaussians, anomaly map.

方法示意图（论文第 III 节）：图像、骨干网络、特征图、嵌入、高斯分布、异常图。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _options import Script, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from scipy.ndimage import gaussian_filter, zoom

from experiment.report import style
from experiment.report.style import Say

WIDTH, HEIGHT = 720, 305  # 百分之一英寸：坐标即印刷尺寸
HEADER, UPPER, MIDDLE, LOWER = 284, 202, 152, 97  # 标题与上、中、下三行的中线
TRAIN, TEST, INK = style.NORMAL_COLOUR, style.DEFECT_COLOUR, "0.25"  # 训练与测试的两条路各用一色
DEFECT = 0.34, 0.36  # 示意图中缺陷的位置，以图宽为单位
Point = tuple[float, float]


def text(axes: Axes, x: float, y: float, words: str, size: float = style.SMALL_SIZE, **kwargs: Any) -> None:
    """Write words centred at a point."""
    centred: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.3}
    axes.text(x, y, words, size=size, **(centred | kwargs))


def header(axes: Axes, x: float, words: str) -> None:
    """Write the heading of a step."""
    text(axes, x, HEADER, words, style.TEXT_SIZE, color="black")


def arrow(axes: Axes, start: Point, end: Point, colour: str = INK, bend: float = 0) -> None:
    """Draw an arrow from ``start`` to ``end``; ``bend`` curves it."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>,head_length=3.4,head_width=1.7", connectionstyle=f"arc3,rad={bend}",
            mutation_scale=1, color=colour, lw=1.1, shrinkA=0, shrinkB=0, joinstyle="miter",
        )
    )  # fmt: skip


def picture(axes: Axes, x: float, y: float, size: float, defect: bool) -> None:
    """Draw a flange seen from above, sound or with a defect; (x, y) is the lower left corner."""
    axes.add_patch(Rectangle((x, y), size, size, fc="0.22", ec=TEST if defect else TRAIN, lw=1.2))
    centre = x + size / 2, y + size / 2
    axes.add_patch(Circle(centre, 0.39 * size, fc="0.78", ec="none"))
    holes = [(0.27 * np.cos(a), 0.27 * np.sin(a), 0.045) for a in np.arange(6) * np.pi / 3]  # 一圈六个螺栓孔
    for dx, dy, radius in [(0, 0, 0.15), *holes]:
        axes.add_patch(Circle((centre[0] + dx * size, centre[1] + dy * size), radius * size, fc="0.22", ec="none"))
    if defect:
        spot = x + DEFECT[0] * size, y + DEFECT[1] * size
        axes.add_patch(Ellipse(spot, 0.2 * size, 0.11 * size, angle=35, fc="#7A3B12", ec="none"))


def slab(axes: Axes, x: float, y: float, size: float, depth: float, cells: int, colour: str) -> None:
    """Draw a feature map in oblique projection, its front divided into ``cells`` × ``cells`` positions."""
    dx, dy, right, top = 0.8 * depth, 0.5 * depth, x + size, y + size
    faces = [  # 正面、顶面、侧面，浓淡不同
        ([(x, y), (right, y), (right, top), (x, top)], 0.55),
        ([(x, top), (x + dx, top + dy), (right + dx, top + dy), (right, top)], 0.35),
        ([(right, y), (right + dx, y + dy), (right + dx, top + dy), (right, top)], 0.85),
    ]
    for corners, alpha in faces:
        axes.add_patch(Polygon(corners, fc="white", ec="none"))  # 垫白：半透明的面不透出背后的东西
        axes.add_patch(Polygon(corners, fc=colour, ec="none", alpha=alpha))
    for k in np.arange(1, cells) * size / cells:
        axes.plot([x + k, x + k], [y, top], [x, right], [y + k, y + k], color="white", lw=0.5)


def pictures(axes: Axes, say: Say) -> None:
    """Draw what goes in: normal training pictures, and a test picture."""
    # 训练只用正常图像；测试图像上有一处缺陷
    header(axes, 48, say("Images", "图像"))
    for shift in (10, 5, 0):
        picture(axes, 12 + shift, UPPER - 26 - shift, 62, defect=False)
    text(axes, 48, 253, say("training: normal", "训练：均为正常"), color=TRAIN)
    picture(axes, 17, LOWER - 36, 62, defect=True)
    text(axes, 48, 50, say("test", "测试"), color=TEST)
    arrow(axes, (87, 205), (110, 184), TRAIN, -0.15)
    arrow(axes, (82, 96), (110, 122), TEST, 0.15)


def backbone(axes: Axes, say: Say) -> None:
    """Draw the truncated network."""
    # 论文 III.A：网络只取到 layer3，参数不再训练
    header(axes, 157, say("Pretrained\nbackbone, frozen", "预训练骨干网络\n（参数冻结）"))
    box = FancyBboxPatch((112, 84), 90, 136, boxstyle="round,pad=0,rounding_size=7", fc="0.965", ec="0.75", lw=0.7)
    axes.add_patch(box)
    # 梯形向右收窄：越深，分辨率越低
    for k, (colour, half) in enumerate(zip(style.LAYER_COLOURS, (54, 43, 32), strict=True)):
        x, fall = 120 + 28 * k, 6
        left, right = (MIDDLE - half, MIDDLE + half), (MIDDLE + half - fall, MIDDLE - half + fall)
        corners = [(x, left[0]), (x, left[1]), (x + 18, right[0]), (x + 18, right[1])]
        axes.add_patch(Polygon(corners, fc=colour, ec="none"))
        text(axes, x + 9, MIDDLE, f"layer{k + 1}", rotation=90, color="black")


def feature_maps(axes: Axes, say: Say) -> None:
    """Draw the outputs of the three layers."""
    # 论文 III.A：三层的特征图，边长逐层减半，通道逐层加倍
    header(axes, 278, say("Feature maps\n(ResNet18)", "特征图\n（ResNet18）"))
    # 每层：边长、通道数、画出的边长、厚度、格数、纵坐标
    rows = zip((56, 28, 14), (64, 128, 256), (54, 36, 22), (4, 8, 14), (8, 4, 2), (221, 146, 84), strict=True)
    for (side, channels, size, depth, cells, y), colour in zip(rows, style.LAYER_COLOURS, strict=True):
        slab(axes, 258 - size / 2, y - size / 2, size, depth, cells, colour)
        arrow(axes, (204, MIDDLE + (y - MIDDLE) * 0.5), (252 - size / 2, y))
        text(axes, 295, y, f"{side}×{side}\n×{channels}", ha="left")
        arrow(axes, (334, y), (356, MIDDLE + (y - MIDDLE) * 0.35))


def embedding(axes: Axes, say: Say) -> None:
    """Draw the aligned and reduced embedding, with one position's vector picked out."""
    # 论文 III.A：对齐到最大的特征图，拼接，随机降维
    header(axes, 400, say("Patch embeddings", "图块嵌入"))
    x, y, size, cells = 364, MIDDLE - 30, 60, 8
    slab(axes, x, y, size, 16, cells, "0.62")
    step = size / cells
    cell = x + 2 * step, y + 2 * step
    axes.add_patch(Rectangle(cell, step, step, fc="black", ec="none"))
    text(axes, 400, 246, say("upsampled, concatenated;\nd random channels", "上采样后拼接，\n随机保留 d 个通道"))
    # 这一位置的向量：三层的通道按抽取的次序交错
    origins, width, left, bottom = np.random.default_rng(3).choice(3, 22, p=(1 / 7, 2 / 7, 4 / 7)), 4, 356, 78
    for k, layer in enumerate(origins):
        place = left + k * width, bottom
        axes.add_patch(Rectangle(place, width, 13, fc=style.LAYER_COLOURS[layer], ec="white", lw=0.4))
    axes.plot(
        [cell[0], left], [cell[1], bottom + 14], [cell[0] + step, left + 88], [cell[1], bottom + 14], color=INK, lw=0.5
    )
    text(
        axes,
        400,
        50,
        say("d = 100 of 448\n(WideResNet50:\n550 of 1792)", "448 取 d = 100\n（WideResNet50：\n1792 取 550）"),
    )
    arrow(axes, (444, 176), (472, 194), TRAIN, -0.1)
    arrow(axes, (444, 138), (472, 112), TEST, 0.1)


def gaussians(axes: Axes, say: Say) -> None:
    """Draw the Gaussians of all positions, and a close look at one of them."""
    # 论文 III.B：每个位置一个高斯；III.C：测试图块到它的马氏距离
    header(
        axes,
        600,
        say(
            "A Gaussian at every position\nand the Mahalanobis distance to it",
            "每个位置一个高斯分布，\n以及到它的马氏距离",
        ),
    )
    rng = np.random.default_rng(8)
    x, y, size, cells = 478, UPPER - 37, 74, 5
    step = size / cells
    axes.add_patch(Rectangle((x, y), size, size, fc="white", ec=TRAIN, lw=1.2))
    for k in np.arange(1, cells) * step:
        axes.plot([x + k, x + k], [y, y + size], [x, x + size], [y + k, y + k], color="0.85", lw=0.5)
    for row, column in np.ndindex(cells, cells):
        centre, tilt = (x + (column + 0.5) * step, y + (row + 0.5) * step), rng.uniform(0, 180)
        long, short = rng.uniform(9, 12), rng.uniform(4, 7)
        for scale, alpha in ((1, 0.25), (0.55, 0.55)):
            axes.add_patch(Ellipse(centre, long * scale, short * scale, angle=tilt, fc=TRAIN, ec="none", alpha=alpha))
    cell = x + 4 * step, y + step
    axes.add_patch(Rectangle(cell, step, step, fc="none", ec="black", lw=0.9))

    # 放大其中一个：训练图块的点云、等马氏距离线、一个测试图块
    left, bottom, side = 614, y - 4, 90
    axes.add_patch(Rectangle((left, bottom), side, side - 8, fc="white", ec="black", lw=0.7))
    for corner, far in ((step, side - 8), (0, 0)):
        axes.plot([cell[0] + step, left], [cell[1] + corner, bottom + far], color=INK, lw=0.5)
    middle, tilt = (left + 40, bottom + 46), np.deg2rad(28)
    mean = np.array(middle)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    for radius in (1, 2, 3):
        axes.add_patch(Ellipse(middle, 23 * radius, 12 * radius, angle=28, fc="none", ec=TRAIN, lw=0.6, alpha=0.8))
    cloud = mean + (rng.standard_normal((34, 2)) * (11.5, 6)) @ turn.T
    axes.plot(*cloud.T, ".", ms=2.6, mec="none", color=TRAIN)
    outlier = mean + np.array([31, -31])
    axes.plot(*zip(mean, outlier, strict=True), color=TEST, lw=1)
    axes.plot(*mean, "+", ms=5, mew=1, color="black")
    axes.plot(*outlier, "o", ms=3.6, mec="none", color=TEST)


def anomaly_maps(axes: Axes, say: Say) -> None:
    """Draw the distances at the positions, and the map at the picture's size."""
    # 论文 III.C：各位置的距离，上采样并平滑成异常图
    cells, size, left = 14, 62, (484, 622)
    y = LOWER - 36
    rows, columns = np.mgrid[:cells, :cells]
    spot = np.hypot(columns + 0.5 - DEFECT[0] * cells, rows + 0.5 - DEFECT[1] * cells)
    # 虚构的距离：缺陷处一个峰，别处是噪声
    distances = np.exp(-((spot / 2.1) ** 2)) + 0.28 * np.random.default_rng(1).random((cells, cells))
    smooth = gaussian_filter(zoom(distances, 8, order=1), 5)
    for x, values in zip(left, (distances, smooth), strict=True):
        axes.imshow(values, cmap=style.HEAT, extent=(x, x + size, y, y + size), origin="lower", aspect="auto")
        axes.add_patch(Rectangle((x, y), size, size, fc="none", ec=TEST, lw=1.2))
    arrow(axes, (515, UPPER - 39), (515, y + size + 3))
    arrow(axes, (left[0] + size + 4, y + size / 2), (left[1] - 4, y + size / 2), TEST)
    text(axes, 584, y + size / 2 + 18, say("bilinear,\nσ = 4", "双线性插值，\n高斯平滑 σ = 4"))
    text(axes, 515, 50, say("distances 56×56", "距离 56×56"), color=TEST)
    text(axes, 653, 50, say("anomaly map 224×224", "异常图 224×224"), color=TEST)
    # 公式 2
    difference = r"(\mathbf{x}_{ij}-\mathbf{\mu}_{ij})"
    formula = rf"$M(\mathbf{{x}}_{{ij}}) = \sqrt{{{difference}^\mathsf{{T}}\,\Sigma_{{ij}}^{{-1}}\,{difference}}}$"
    text(axes, 590, 22, formula, style.FORMULA_SIZE, color="black")


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``framework``."""
    figure = Figure((WIDTH / 100, HEIGHT / 100))
    axes = figure.add_axes((0, 0, 1, 1))
    for part in (pictures, backbone, feature_maps, embedding, gaussians, anomaly_maps):
        part(axes, say)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axes.axis("off")
    yield from save(figure, args, "framework")


SCRIPT = Script("framework", __doc__, draw=draw, each_model=False)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
