"""Image-level and pixel-level ROC curves of all classes.

各类的图像级与像素级 ROC 曲线（论文 IV.A）。
"""

import _root  # noqa: F401, I001

import argparse
import sys

from _options import Script
from _results import Results

from matplotlib.figure import Figure

from experiment.report.figures import Curves, roc_drawing
from experiment.files.records import LEVELS
from experiment.report.style import Say, printable


def curves(results: Results) -> Curves:
    """Every class's stored curves with their ROC AUC."""
    found = {}
    for name in results.classes:
        arrays, row = results.arrays(name), results.row(name)
        stored = {level: (arrays[f"{level}_roc"], row[f"{level}_rocauc"]) for level in LEVELS}
        found[printable(name)] = {  # 缺一种标签的，没有曲线
            level: None if pair[0] is None or pair[1] is None else pair for level, pair in stored.items()
        }
    return found


def figure(results: Results, args: argparse.Namespace, say: Say) -> Figure:
    """Draw two panels, the image level and the pixel level."""
    return roc_drawing(curves(results), say)


SCRIPT = Script("roc_curve", __doc__, figure)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
