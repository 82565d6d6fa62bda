"""The fitted Gaussians: the mean's norm, one position's covariance, correlation and eigenvalues.

拟合好的高斯（论文 III.B，公式 1）：均值的范数，一个位置的协方差、相关系数与特征值。
"""

import _root  # noqa: F401, I001

import argparse
import sys

import numpy as np
from _options import Parser, Script
from _results import WITHOUT_GAUSSIANS, Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiment.report import style
from system.errors import UserError
from experiment.report.style import Say
from padim import EPSILON


def position_options(made: Parser) -> None:
    """Add ``--position`` and ``--condition``."""
    made.add_argument("--position", type=int, nargs=2, metavar=("ROW", "COLUMN"), help="default: the centre")
    made.add_argument(
        "--condition", action="store_true", help="add the map of condition numbers (reads the whole file)"
    )


def correlation(covariance: np.ndarray) -> np.ndarray:
    """The correlation matrix (d, d) of a covariance (d, d)."""
    deviations = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviations, deviations)  # ρᵢⱼ = σᵢⱼ / (σᵢσⱼ)


def condition_numbers(covariance: np.ndarray) -> np.ndarray:
    """The largest over the smallest eigenvalue at every position, (P,) from (P, d, d), one position at a time."""
    numbers = np.empty(len(covariance))
    for i, matrix in enumerate(covariance):
        values = np.linalg.eigvalsh(matrix.astype(np.float64))
        numbers[i] = values[-1] / values[0]  # eigvalsh 升序
    return numbers


def plain(value: float, _: int | None = None) -> str:
    """A tick label without superscripts, which would be too small in print."""
    return f"{value:g}" if 1e-4 <= value < 1e5 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e−")


def matrix(axes: Axes, values: np.ndarray, title: str, colours: str, limit: float | None = None) -> None:
    """Draw a matrix or a map over the grid, with its colour bar; ``limit`` makes the scale symmetric."""
    axes.grid(False)
    axes.spines[:].set_visible(True)
    low = None if limit is None else -limit
    shown = axes.imshow(values, cmap=colours, vmin=low, vmax=limit, interpolation="none")
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.86, pad=0.03, aspect=16)
    bar.ax.locator_params(axis="y", nbins=5)
    bar.ax.grid(False)
    axes.set_title(title)
    axes.locator_params(nbins=5, integer=True)


def spectrum(axes: Axes, values: np.ndarray, n_train: int, say: Say) -> None:
    """Draw the eigenvalues (d,) in descending order, and the floor that regularisation puts under them."""
    axes.semilogy(np.arange(1, len(values) + 1), values[::-1], color=style.NORMAL_COLOUR, lw=1.4)
    floor = say(f"floor ε = {EPSILON}", f"下限 ε = {EPSILON}")  # 公式 1 的正则项：特征值不会更小
    axes.axhline(EPSILON, color=style.DEFECT_COLOUR, ls="--", lw=0.9, label=floor)
    # n 张图的散布，秩至多 n − 1：其后的特征值就是 ε
    if n_train <= len(values):
        label = say(f"rank n − 1 = {n_train - 1}", f"秩 n − 1 = {n_train - 1}")
        axes.axvline(n_train - 1, color="0.45", ls=":", lw=0.9, label=label)
    axes.set(title=say("Eigenvalues", "特征值"), xlabel=say("index, in descending order", "序号（降序）"))
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_formatter("")
    axes.margins(x=0.02)
    axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")


def figure(results: Results, name: str, args: argparse.Namespace, say: Say) -> Figure:
    """Draw four panels or, with ``--condition``, six."""
    mean, covariance, (height, width) = results.fitted(name)  # (P, d)、(P, d, d)，映射的
    row, column = args.position or (height // 2, width // 2)
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(f"--position {row} {column}: the grid has {height} × {width} positions, counted from 0")
    position = row * width + column  # 位置按行编号
    if args.condition:
        results.check(name, covariance)
    results.check(name, covariance[position : position + 1], position)
    here = np.array(covariance[position], np.float64)  # (d, d)
    limit = np.quantile(np.abs(here), 0.995)  # 色标的范围不由个别极值决定
    norms = np.linalg.norm(mean, axis=1).reshape(height, width)  # (H, W)
    drawing = Figure((style.DOUBLE, 4.1), layout="constrained")
    panels = drawing.subplot_mosaic("abc;def" if args.condition else "abc;ddd")
    matrix(panels["a"], norms, say("Norm of the mean", "均值的范数"), style.MAGNITUDE)
    panels["a"].plot(column, row, "s", ms=4, mfc="none", mec="white", mew=1)
    matrix(panels["b"], here, say("Covariance", "协方差"), style.SIGNED, limit)
    matrix(panels["c"], correlation(here), say("Correlation", "相关系数"), style.SIGNED, 1)
    spectrum(panels["d"], np.linalg.eigvalsh(here), results.provenance(name)["n_train"], say)
    if args.condition:
        numbers, label = condition_numbers(covariance), say("Condition number (log10)", "条件数（以 10 为底的对数）")
        matrix(panels["e"], np.log10(numbers).reshape(height, width), label, style.MAGNITUDE)
        panels["f"].hist(np.log10(numbers), 30, color=style.NORMAL_COLOUR)
        panels["f"].set(title=label, ylabel=say("positions", "位置数"))
    where = say(f"position ({row}, {column})", f"位置（{row}, {column}）")
    drawing.suptitle(
        say(", ", "，").join([style.printable(name), style.arch_label(results.store.key), where]), size=style.TEXT_SIZE
    )
    return drawing


SCRIPT = Script(
    "gaussian_parameters",
    __doc__,
    figure,
    own_options=position_options,
    each_class=True,
    lacking=WITHOUT_GAUSSIANS,
    which="every",
)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
