"""What all plot scripts share: what they declare, their options, how they end, and how a figure is written.

各绘图脚本共有的：各自的声明、选项、收尾、图的写法。
"""

import _root  # noqa: F401, I001

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from _results import Results, Which, chosen_classes, open_results
from matplotlib.figure import Figure

from experiment.options import SCALES
from experiment.report.style import Say, arch_short, legible, look
from system import command
from system.command import Parser
from system.files import TEXT, expanded, replacing

Draw = Callable[[argparse.Namespace, Say], Iterator[Path]]
FORMATS = ("png", "pdf")


@dataclass(frozen=True)
class Script:
    """What a plot script draws, and what it needs for that: its options follow from this, and what `all.py` calls.

    Attributes
    ----------
    name : str
        The script's; with ``figure`` the names of its files begin with it.
    description : str
        Its docstring, whose first line is shown.
    figure : callable, optional
        ``figure(results, args, say)`` of a model or, with ``each_class``, ``figure(results, name, args, say)``.
    draw : callable, optional
        ``draw(args, say)`` instead, which yields the files as it writes them, where there is not one figure for each.
    own_options : callable
        Adds options to the common ones.
    several : bool
        Whether several result folders are taken.
    each_model, each_class : bool
        Whether every model, and every class, has a figure of its own.
    lacking : mapping
        The methods that do not have what is drawn, as in `open_results`.
    which : str
        The classes that are drawn, as in `Results`.
    on_request : callable, optional
        The models in a result folder that have what is drawn, where it is made on request alone.
    """

    name: str
    description: str
    figure: Callable[..., Figure] | None = None
    draw: Draw | None = None
    own_options: Callable[[Parser], object] = lambda made: None
    several: bool = False
    each_model: bool = True
    each_class: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)
    which: Which = "scored"
    on_request: Callable[[Path], list[str]] | None = None

    def options(self) -> Parser:
        """The command line."""
        made = parser(self.description, several=self.several)
        if self.each_class:
            which = made.add_mutually_exclusive_group()
            which.add_argument("--class", dest="name", metavar="NAME", help="default: the first class")
            which.add_argument("--all", action="store_true", help="every class")
        self.own_options(made)
        return made

    def results(self, root: Path, archs: Sequence[str] | None) -> list[Results]:
        """What it draws from: the results of these models, or of every one that has some."""
        return open_results(root, archs, self.lacking, self.which)

    def files(self, args: argparse.Namespace, say: Say) -> Iterator[Path]:
        """Draw; yields every file as soon as it is written."""
        if self.draw:
            yield from self.draw(args, say)
            return
        assert self.figure  # 二者必有其一
        for results in self.results(args.result, args.arch):
            for of_class in [[name] for name in chosen_classes(args, results)] if self.each_class else [[]]:
                stem = "_".join([self.name, *of_class, arch_short(results.store.key)])
                yield from save(self.figure(results, *of_class, args, say), args, stem)

    def main(self, argv: list[str] | None = None) -> int:
        """Run the command; returns the exit status."""
        return run(self.files, self.options().parse_args(argv))


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


def colour_option(made: Parser) -> None:
    """Add ``--colours``."""
    which = "of heat maps, as main.py has it: class or threshold (default: as the run has drawn)"
    made.add_argument("--colours", choices=SCALES, help=which)


def target(args: argparse.Namespace, stem: str, suffix: str) -> Path:
    """``OUT/STEM.suffix``, in Chinese ``OUT/STEM_zh.suffix``."""
    return args.out / f"{stem}{'_zh' if args.lang == 'zh' else ''}.{suffix}"


def save(figure: Figure, args: argparse.Namespace, stem: str) -> list[Path]:
    """Write a figure in every format wanted; on an error none of its files."""
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
    """Draw, and tell what is written as soon as it is; returns the exit status."""

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
