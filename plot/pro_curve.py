"""Per-region overlap against the false-positive rate, of all classes, with the area up to 0.3.

各类的区域重叠率对假阳性率的曲线，及至 0.3 的面积（论文 IV.A 的 PRO）。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _options import Parser, parser, run, save
from _results import WITHOUT_MAPS, Results, open_results
from matplotlib.figure import Figure

from experiment.report import style
from padim.overlap import PRO_LIMIT
from system.errors import UserError
from experiment.report.style import Say


def options() -> Parser:
    """The command line."""
    return parser(__doc__)


def curves(results: Results) -> dict[str, tuple[np.ndarray, float]]:
    """Every class's stored curve (K, 2) with its AUPRO, where they are defined.

    Raises
    ------
    UserError
        If no class has them.
    """
    found = {}
    for name in results.classes:
        arrays, row = results.arrays(name), results.row(name)
        if arrays["pixel_pro"] is not None and row["pixel_aupro"] is not None:  # 要有掩码与缺陷
            found[name] = arrays["pixel_pro"], row["pixel_aupro"]
    if not found:
        raise UserError(f"no class in {str(results.store.results)!r} has both masks and defects: no PRO curve")
    return found


def figure(results: Results, say: Say) -> Figure:
    """One panel, its legend beside it."""
    found = curves(results)
    lines = style.class_lines(results.classes)
    drawing = Figure((style.DOUBLE, 3.4), layout="constrained")
    axes = drawing.subplots()
    for name, (curve, area) in found.items():
        axes.plot(*curve.T, label=f"{style.printable(name, 24)}  {area:.3f}", **lines[name])
    axes.set(xlim=(-0.01 * PRO_LIMIT, 1.01 * PRO_LIMIT), ylim=(-0.01, 1.01))  # 横轴只到积分的上限
    axes.set(xlabel=say("False-positive rate", "假阳性率"), ylabel=say("Per-region overlap", "区域重叠率"))
    mean = f"{np.mean([area for _, area in found.values()]):.3f}"
    axes.set_title(say(f"Pixel level, average AUPRO {mean}", f"像素级，平均 AUPRO {mean}"))
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.4,
        title=say(f"AUPRO up to {PRO_LIMIT}", f"AUPRO（至 {PRO_LIMIT}）"), alignment="left",
    )  # fmt: skip
    legend.get_title().set_fontsize(style.TEXT_SIZE)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``pro_curve_{arch}``."""
    for results in open_results(args.result, args.arch, WITHOUT_MAPS):
        yield from save(figure(results, say), args, f"pro_curve_{style.arch_short(results.store.key)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(draw, options().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
