"""Image-level and pixel-level ROC curves of all classes.

各类的图像级与像素级 ROC 曲线（论文 IV.A）。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from _options import Parser, parser, run, save
from _results import Results, open_results

from experiment.report.figures import Curves, roc_drawing
from experiment.files.records import LEVELS
from experiment.report.style import Say, arch_short, printable


def options() -> Parser:
    """The command line."""
    return parser(__doc__)


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


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``roc_curve_{arch}``."""
    for results in open_results(args.result, args.arch):
        yield from save(roc_drawing(curves(results), say), args, f"roc_curve_{arch_short(results.store.key)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(draw, options().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
