"""Per-region overlap against the false-positive rate, of all classes, with the area up to 0.3.

各类的区域重叠率对假阳性率的曲线，及至 0.3 的面积（论文 IV.A 的 PRO）。
"""

import _root  # noqa: F401, I001

import argparse
import sys

import numpy as np
from _options import Script
from _results import WITHOUT_MAPS, Results
from matplotlib.figure import Figure

from experiment.report import style
from padim.overlap import PRO_LIMIT
from experiment.report.style import Say


def figure(results: Results, args: argparse.Namespace, say: Say) -> Figure:
    """Draw one panel with its legend beside it."""
    found = results.measured("pixel_pro", "pixel_aupro", "PRO curve")
    lines = style.class_lines(results.classes)
    drawing = Figure((style.DOUBLE, 3.4), layout="constrained")
    axes = drawing.subplots()
    for name, (arrays, area) in found.items():
        axes.plot(*arrays["pixel_pro"].T, label=f"{style.printable(name, 24)}  {area:.3f}", **lines[name])
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


SCRIPT = Script("pro_curve", __doc__, figure, lacking=WITHOUT_MAPS)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
