"""One look for every figure: print sizes, fonts, colours, languages.

所有图共用的样式：印刷尺寸、字体、颜色、语言。

Inside ``with look(language) as say`` matplotlib is set up for print, and ``say(english, chinese)``
returns the wording of that language.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from datasets.mvtec import OBJECTS, TEXTURES
from experiment.methods import METHODS, NETWORKS, method_of, split_key
from experiment.report.words import shortened
from system.errors import UserError
from system.files import TEXT

SINGLE, DOUBLE = 3.5, 7.2  # 英寸：单栏（89 mm）与双栏（183 mm）
TEXT_SIZE, SMALL_SIZE = 8, 7  # pt；印刷尺寸下没有更小的字
FORMULA_SIZE = 10  # 上下标是正文的七成，仍不小于 7 pt
LABEL_SIZE = 9  # 结果文件夹里的定位图按像素画，不按印刷尺寸

IMAGE_COLOUR, PIXEL_COLOUR = "#0072B2", "#D55E00"
NORMAL_COLOUR, DEFECT_COLOUR = "#0072B2", "#D55E00"
ARCH_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D00", "#000000")
LAYER_COLOURS = ("#56B4E9", "#009E73", "#E69F00")
HEAT, MAGNITUDE, SIGNED = "jet", "viridis", "RdBu_r"  # 异常热图沿用原文的 jet

# 十五个类别也分得清：色盲可辨的八色（Okabe–Ito）配三种线型
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
LINE_STYLES = ("-", "--", ":")

# 从字形最合适的找起；JP 版也含全部简体字
CHINESE_FONTS = (
    "Noto Sans SC", "Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei", "PingFang SC",
    "PingFang HK", "Hiragino Sans GB", "Heiti SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei",
    "Source Han Sans", "Noto Sans CJK JP",
)  # fmt: skip
_CHINESE_FILES = ("notosanssc", "notosanscjk", "sourcehansans", "msyh", "pingfang", "hiraginosansgb", "wqy", "simhei")

Say = Callable[[str, str], str]


class Line(TypedDict):
    """How a curve is drawn, in matplotlib's words."""

    color: str
    linestyle: str


def class_order(names: Iterable[str]) -> list[str]:
    """The order in every figure: textures, objects, then other classes by name."""
    known = TEXTURES + OBJECTS
    names = set(names)
    return [n for n in known if n in names] + sorted(names - set(known))


def class_lines(names: Iterable[str]) -> dict[str, Line]:
    """Colour and line style of every class; an MVTec AD class has its own, whatever else is drawn."""
    known = TEXTURES + OBJECTS
    ordered = class_order(names)
    free = iter([i for i in range(len(known) + len(ordered)) if i >= len(known) or known[i] not in ordered])
    return {n: class_line(known.index(n) if n in known else next(free)) for n in ordered}


def class_line(index: int) -> Line:
    """Colour and line style of the ``index``-th class."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINE_STYLES[index // len(PALETTE) % len(LINE_STYLES)]}


def printable(name: str, columns: int | None = None) -> str:
    """A name as matplotlib can draw it, cut to so many columns: bytes that are no text escaped, ``$`` no formula."""
    text = name.encode(**TEXT).decode()
    return (text if columns is None else shortened(text, columns)).replace("$", r"\$")


def arch_label(key: str) -> str:
    """A model's name as it is printed: the backbone's, a predecessor's with its method."""
    method, arch = split_key(key)
    network = NETWORKS[arch].label if arch in NETWORKS else arch
    return network if method == "padim" else f"{METHODS[method].label} ({network})"


def arch_labels(keys: Iterable[str]) -> dict[str, str]:
    """The names of models beside one another: where there is a predecessor, PaDiM is named, too."""
    methods = {key: method_of(key).label for key in keys}
    named = set(methods.values()) > {"PaDiM"}
    return {k: f"{m} ({arch_label(k)})" if named and m == "PaDiM" else arch_label(k) for k, m in methods.items()}


def arch_tag(key: str) -> str:
    """The backbone's short name, as in the published tables."""
    arch = split_key(key)[1]
    return NETWORKS[arch].tag if arch in NETWORKS else arch


def arch_short(key: str) -> str:
    """A model's name in file names."""
    method, arch = split_key(key)
    network = arch_tag(key).lower() if arch in NETWORKS else arch
    return network if method == "padim" else f"{method}_{network}"


@lru_cache(maxsize=1)
def chinese_font() -> tuple[str, bool]:
    """The first usual Chinese font that is installed, and whether its outlines are CFF.

    Raises
    ------
    UserError
        If there is none.
    """
    found = _installed()
    if not found:  # 名单是缓存的：刚装的字体、随 zhplot 包来的字体还不在其中
        package = find_spec("zhplot")
        places = (package and package.submodule_search_locations) or []
        folders = [Path(place) / "fonts" for place in places]
        for path in [*font_manager.findSystemFonts(folders), *font_manager.findSystemFonts()]:
            if Path(path).name.lower().replace("-", "").replace("_", "").startswith(_CHINESE_FILES):
                font_manager.fontManager.addfont(path)
        found = _installed()
    for name in CHINESE_FONTS:
        if name in found:
            return name, _is_cff(found[name])
    raise UserError(
        "--lang zh: no Chinese font is installed; get one with: python -m pip install zhplot (it brings Noto Sans SC), "
        "or apt install fonts-noto-cjk"
    )


def _installed() -> dict[str, str]:
    entries = font_manager.fontManager.ttflist
    return {e.name: e.fname for e in entries if e.name in CHINESE_FONTS}


def _is_cff(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(16)
        if head[:4] == b"ttcf":  # 字体集：第一个字体的表头在此偏移处
            file.seek(int.from_bytes(head[12:16], "big"))
            head = file.read(4)
    return head[:4] == b"OTTO"


@contextmanager
def legible(figure: Figure) -> Iterator[None]:
    """Within it a figure is saved, in fonts that have all of its characters, as far as this machine has them.

    Classes and kinds of defect are named in any script, whatever the language of the figure.
    """
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    characters = {ord(c) for text in texts for c in text.get_text() if c.isprintable()}
    families = list(matplotlib.rcParams["font.sans-serif"])
    left = characters.difference(*map(_characters, families))
    pdf = matplotlib.rcParams["pdf.fonttype"]
    for family in _families() if left else ():
        if left & (found := _characters(family)):
            families.append(family)
            left -= found
            if _is_cff(font_manager.findfont(font_manager.FontProperties(family=[family]))):
                pdf = 3
        if not left:
            break
    for text in texts if len(families) > len(matplotlib.rcParams["font.sans-serif"]) else ():
        text.set_fontfamily(families)  # 逐个写明：只写 sans-serif，matplotlib 就只取其中的第一种
    with matplotlib.rc_context({"pdf.fonttype": pdf}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")  # 哪种字体都没有的字：画成方框
        yield


def _families() -> list[str]:
    """The installed upright fonts of regular weight, the usual Chinese one first."""
    try:
        first = [chinese_font()[0]]
    except UserError:
        first = []
    entries = [
        e for e in font_manager.fontManager.ttflist if e.style == "normal" and str(e.weight) in ("400", "normal")
    ]
    others = sorted({e.name for e in entries}, key=lambda name: ("sans" not in name.lower(), name))
    return first + [name for name in others if "last resort" not in name.lower()]


@lru_cache
def _characters(family: str) -> frozenset[int]:
    """The code points that a font has glyphs for; none where it cannot be read, as a bitmap font."""
    try:
        path = font_manager.findfont(font_manager.FontProperties(family=[family]), fallback_to_default=False)
        return frozenset(font_manager.get_font(path).get_charmap())
    except (ValueError, OSError, RuntimeError):
        return frozenset()


@contextmanager
def look(language: str = "en") -> Iterator[Say]:
    """Set matplotlib up for print in ``en`` or ``zh``; yields the function that picks the wording.

    Raises
    ------
    UserError
        If no Chinese font is installed.
    """
    fonts, is_cff = ["DejaVu Sans"], False
    if language == "zh":
        name, is_cff = chinese_font()
        fonts = [name, *fonts]  # 中文字体里没有的字形（如减号）由后者补上
    settings = matplotlib.rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": fonts,
            "mathtext.fontset": "dejavusans",
            "pdf.fonttype": 3 if is_cff else 42,  # CFF 轮廓写成 42 型不是合法的 PDF
            "font.size": TEXT_SIZE,
            "axes.titlesize": TEXT_SIZE,
            "axes.labelsize": TEXT_SIZE,
            "xtick.labelsize": SMALL_SIZE,
            "ytick.labelsize": SMALL_SIZE,
            "legend.fontsize": SMALL_SIZE,
            "legend.frameon": False,
            "legend.handlelength": 1.8,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "0.9",
            "grid.linewidth": 0.5,
            "lines.linewidth": 1.1,
            "patch.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "image.interpolation": "nearest",
            "savefig.facecolor": "white",
        }
    )
    with settings:
        yield (lambda english, chinese: chinese) if language == "zh" else (lambda english, chinese: english)
