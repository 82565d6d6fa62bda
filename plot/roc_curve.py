"""Image-level and pixel-level ROC curves of all classes.

各类的图像级与像素级 ROC 曲线（论文 IV.A）。
"""

import _root  # noqa: F401, I001

import argparse
import sys

from _options import Script
from _results import Results

from matplotlib.figure import Figure

from experiment.report.figures import roc_drawing
from experiment.report.results import curves_of
from experiment.report.style import Say, printable


def figure(results: Results, args: argparse.Namespace, say: Say) -> Figure:
    """Draw two panels, the image level and the pixel level."""
    names = results.classes
    return roc_drawing({printable(name): curves_of(results.arrays(name), results.row(name)) for name in names}, say)


SCRIPT = Script("roc_curve", __doc__, figure)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
