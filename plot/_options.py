"""What all plot scripts share: their options, their errors, and how a figure is written."""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from matplotlib.figure import Figure

from padim.command import Parser
from padim.files import TEXT
from padim.store import StoreError, replacing
from padim.style import FontError, Say, look

Draw = Callable[[argparse.Namespace, Say], Iterator[Path]]
FORMATS = ("png", "pdf")


def _formats(text: str) -> list[str]:
    chosen = [f for f in FORMATS if f in text.split(",")]
    if not chosen or set(text.split(",")) - set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(FORMATS)}")
    return chosen


def _dpi(text: str) -> int:
    if not text.isdecimal() or not 50 <= int(text) <= 1200:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 50 to 1200")
    return int(text)


def parser(description: str, *, several: bool = False, language: Callable | None = None) -> Parser:
    """The common options; ``several`` result folders are taken, or more than one ``language``."""
    made = Parser(description=description)
    add = made.add_argument
    folders = {"nargs": "+", "default": [Path("mvtec_result")]} if several else {"default": Path("mvtec_result")}
    add("--result", type=Path, metavar="DIR", help="folder that main.py wrote (default mvtec_result)", **folders)
    add("--out", type=Path, metavar="DIR", default=Path("imgs"), help="where figures go (default imgs)")
    add("--arch", help="backbone; default: every one with results")
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
    with ExitStack() as files:
        for path, suffix in zip(paths, args.format, strict=True):
            # 不写日期：同样的结果给出同样的文件
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            figure.savefig(files.enter_context(replacing(path)), format=suffix, dpi=args.dpi, metadata=metadata)
    return paths


def save_text(text: str, args: argparse.Namespace, stem: str, suffix: str) -> Path:
    """Write a table as text."""
    path = target(args, stem, suffix)
    with replacing(path) as temporary:
        temporary.write_text(text, newline="\n", **TEXT)
    return path


def describe(problem: Exception) -> str:
    """The one line that tells a user what is wrong and what to do."""
    if isinstance(problem, OSError):
        where = f"{problem.filename!r}: " if problem.filename else ""
        return f"{where}{problem.strerror or problem}; see --result and --out"
    return str(problem)


def run(draw: Draw, args: argparse.Namespace) -> int:
    """Draw, tell what was written, and report what a user must change; the exit status."""
    written: list[Path] = []
    problem = None
    lenient_console()
    try:
        with look(args.lang) as say:
            for path in draw(args, say):
                written.append(path)
    except USER_ERRORS as caught:
        problem = caught
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    report(written)
    if problem is None:
        return 0
    print(f"error: {describe(problem)}", file=sys.stderr)
    return 2


def lenient_console() -> None:
    """Print names that the console's encoding lacks with question marks, and not fail for them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def report(paths: Iterable[Path]) -> None:
    """Tell what was written."""
    for path in paths:
        print(f"wrote {path}", flush=True)


USER_ERRORS = (StoreError, FontError, OSError)
