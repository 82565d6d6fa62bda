"""What all plot scripts share: their options, how they end, and how a figure is written.

各绘图脚本共有的：选项、收尾、图的写法。
"""

import _root  # noqa: F401, I001

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from matplotlib.figure import Figure

from experiment.report.style import Say, legible, look
from system import command
from system.command import Parser
from system.files import TEXT, expanded, replacing

Draw = Callable[[argparse.Namespace, Say], Iterator[Path]]
FORMATS = ("png", "pdf")


def _formats(text: str) -> list[str]:
    chosen = [f for f in FORMATS if f in text.split(",")]  # 去重，按固定的次序
    if not chosen or set(text.split(",")) - set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(FORMATS)}")
    return chosen


def _dpi(text: str) -> int:
    if not text.isdecimal() or not 50 <= int(text) <= 1200:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 50 to 1200")
    return int(text)


def parser(
    description: str, *, several: bool = False, language: Callable | None = None, folders: bool = True
) -> Parser:
    """The common options.

    Parameters
    ----------
    description : str
        A script's docstring, whose first line is shown.
    several : bool
        Whether several result folders are taken.
    language : callable, optional
        The type of ``--lang``, where that is more than one language.
    folders : bool
        Whether what is drawn is named by its result folder and models.
    """
    made = Parser(description=description.splitlines()[0])
    add = made.add_argument
    if folders:
        one = Path("mvtec_result")
        taken = {"nargs": "+", "default": [one]} if several else {"default": one}
        add("--result", type=expanded, metavar="DIR", help="folder that main.py wrote (default mvtec_result)", **taken)
        keys = "models, as their files name them: resnet18, spade_wide_resnet50_2, …; default: every one with results"
        add("--arch", nargs="+", metavar="KEY", help=keys)
    add("--out", type=expanded, metavar="DIR", default=Path("imgs"), help="where figures go (default imgs)")
    if language:
        add("--lang", type=language, default=["en"], metavar="LIST", help="en (default), zh or en,zh")
    else:
        add("--lang", choices=["en", "zh"], default="en", help="language of the figures (default en)")
    add("--format", type=_formats, default=list(FORMATS), metavar="LIST", help="png, pdf or png,pdf (the default)")
    add("--dpi", type=_dpi, default=300, help="resolution of PNG files (default 300)")
    return made


def target(args: argparse.Namespace, stem: str, suffix: str) -> Path:
    """``OUT/STEM.suffix``, in Chinese ``OUT/STEM_zh.suffix``."""
    return args.out / f"{stem}{'_zh' if args.lang == 'zh' else ''}.{suffix}"


def save(figure: Figure, args: argparse.Namespace, stem: str) -> list[Path]:
    """Write a figure in every format wanted: all of its files, or on an error none."""
    paths = [target(args, stem, suffix) for suffix in args.format]
    with legible(figure), ExitStack() as files:
        for path, suffix in zip(paths, args.format, strict=True):
            # 不写日期：同样的结果给出同样的文件
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            figure.savefig(files.enter_context(replacing(path)), format=suffix, dpi=args.dpi, metadata=metadata)
    return paths


def write_text(path: Path, text: str) -> Path:
    """Write a table or a page; the same bytes on every system."""
    with replacing(path) as temporary:
        temporary.write_text(text, newline="\n", **TEXT)
    return path


def run(draw: Draw, args: argparse.Namespace) -> int:
    """Draw, and tell what is written as soon as it is; the exit status."""

    def work() -> None:
        # matplotlib 的样式只在作图期间改动
        with look(args.lang) as say:
            for path in draw(args, say):
                report([path])

    return command.run(work)


def report(paths: Iterable[Path]) -> None:
    """Tell what was written."""
    for path in paths:
        print(f"wrote {path}", flush=True)


_said: set[str] = set()


def note(lines: Iterable[str]) -> None:
    """Say each line once, on standard error; of several processes the first does."""
    if multiprocessing.parent_process() is None:
        for line in {*lines} - _said:
            print(f"note: {line}", file=sys.stderr, flush=True)
            _said.add(line)
