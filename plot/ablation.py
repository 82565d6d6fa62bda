"""The studies of layers, dimensions, seeds and the covariance: image and pixel ROC AUC of every variant.

层、维数、随机种子与协方差的研究：各方案的图像级与像素级 ROC AUC（论文 V.A）。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _auroc import level_label
from _options import Script, save
from _results import architectures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import HashableList

from experiment.methods import split_key
from experiment.report import style
from experiment.files.records import LEVELS
from experiment.files.folder import Store
from experiment.report.style import Say
from system.errors import UserError

COLOURS = dict(zip(LEVELS, (style.IMAGE_COLOUR, style.PIXEL_COLOUR), strict=True))
MARKERS = {"image": "o", "pixel": "s"}


def read(root: Path, archs: Sequence[str] | None) -> list[tuple[str, dict[str, Any]]]:
    """The studies ``{name: content}`` of these networks, or of every one that has some, each with its key.

    Raises
    ------
    UserError
        If there are none, or a file holds something else; the message names the command that makes them.
    """
    found = []
    for each in archs or architectures(root, "ablation") or ["resnet18"]:
        if split_key(each)[0] != "padim":
            raise UserError(f"{style.arch_label(each)} has no studies: they are PaDiM's; give --arch another network")
        store, command = Store(root, each), f"python ablation.py --arch {each} --save_path {root}"
        try:
            content = store.read_studies()
        except UserError as problem:
            raise UserError(f"{problem}; make it with: {command}") from problem
        if content is None:
            raise UserError(f"no studies of {each} in {str(root)!r} (--result); make some with: {command}")
        studies = {name: content["studies"][name] for name in PANELS if name in content["studies"]}
        if not studies or not all(study["variants"] and study["classes"] for study in studies.values()):
            raise UserError(f"{str(store.ablation)!r} holds no studies; make some with: {command}")
        found.append((each, studies))
    return found


def values(study: dict[str, Any], level: str, variants: list[dict[str, Any]]) -> np.ndarray:
    """The variants' averages over the classes, NaN where there are none."""
    averages = (study["averages"][v["label"]][level] for v in variants)
    return np.array([np.nan if each is None else each for each in averages])


def name_of(variant: dict[str, Any], say: Say) -> str:
    """What a row of the study of layers is called."""
    if variant["reduction"] == "sum":
        return say("sum of the layers' maps", "各层异常图之和")
    words = " + ".join(variant["layers"])
    if variant["reduction"] == "random":
        words = say("all layers, random", "全部各层，随机")
    return f"{words} (d = {variant['dimensions']})"


def layers(axes: Axes, study: dict[str, Any], say: Say) -> None:
    """Draw a row for each choice of layers."""
    rows(axes, study, [name_of(variant, say) for variant in study["variants"]])
    axes.set_title(say("Layers", "所用的层"))


def rows(axes: Axes, study: dict[str, Any], names: list[str]) -> None:
    """Draw a row for each variant, and in it a mark for each level."""
    places = np.arange(len(names))
    for level in LEVELS:
        axes.plot(values(study, level, study["variants"]), places, MARKERS[level], ms=4, color=COLOURS[level])
    axes.set_yticks(places, names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="ROC AUC")  # 自上而下


def dimensions(axes: Axes, study: dict[str, Any], say: Say) -> None:
    """Draw ROC AUC against d for random channels and principal components; all channels are a horizontal line."""
    for level in LEVELS:
        # 实线为随机通道，虚线为主成分
        for reduction, line in (("random", "-"), ("pca", "--")):
            rows = [v for v in study["variants"] if v["reduction"] == reduction]
            shown = values(study, level, rows)
            axes.plot([v["dimensions"] for v in rows], shown, line, marker=MARKERS[level], ms=3.5, color=COLOURS[level])
        # 点线为全部通道：降维所损失的，由此量起
        whole = [v for v in study["variants"] if v["reduction"] == "none"]
        for height in values(study, level, whole):
            axes.axhline(height, color=COLOURS[level], ls=":", lw=0.9)
    # 空的曲线，只为图例
    axes.plot([], [], "-", color="0.3", label=say("random channels", "随机通道"))
    axes.plot([], [], "--", color="0.3", label=say("principal components", "主成分"))
    count = next((v["dimensions"] for v in study["variants"] if v["reduction"] == "none"), 0)
    axes.plot([], [], ":", color="0.3", label=say(f"all {count} channels", f"全部 {count} 个通道"))
    axes.set(xlabel=say("dimensions d", "维数 d"), ylabel="ROC AUC", title=say("Dimensions", "维数"))
    axes.legend(loc="best")


def seeds(axes: Axes, study: dict[str, Any], say: Say) -> None:
    """Draw a mark for each seed, and mean ± standard deviation."""
    for place, level in enumerate(LEVELS):
        shown, spread = values(study, level, study["variants"]), study["spread"][level]
        across = place + np.linspace(-0.22, 0.22, len(shown))  # 横向错开，免得重叠
        axes.plot(across, shown, MARKERS[level], ms=3.5, color=COLOURS[level], alpha=0.75)
        if spread:
            axes.errorbar(place + 0.34, spread["mean"], spread["std"], fmt="_", color="black", capsize=3, lw=1)
    ticks = []
    for level in LEVELS:
        word = level_label(level, say)
        spread = study["spread"][level]
        ticks.append(f"{word}\n{spread['mean']:.4f} ± {spread['std']:.4f}" if spread else word)
    count = len(study["variants"])
    axes.set_xticks(range(len(LEVELS)), ticks)
    axes.set(xlim=(-0.5, len(LEVELS) - 0.5), ylabel="ROC AUC")
    axes.set_title(say(f"{count} seeds", f"{count} 个种子"))


def covariance(axes: Axes, study: dict[str, Any], say: Say) -> None:
    """Draw a row for each covariance, from the full one to none."""
    words = {
        "full": say("one for each position (PaDiM)", "各位置各一个（PaDiM）"),
        "diagonal": say("its diagonal alone", "只取对角线"),
        "shared": say("the mean of all positions'", "各位置的平均"),
        "identity": say("none: Euclidean distance", "不用：欧氏距离"),
    }
    rows(axes, study, [words[variant["covariance"]] for variant in study["variants"]])
    axes.set_title(say("Covariance", "协方差"))


PANELS = {"layers": layers, "covariance": covariance, "dimensions": dimensions, "seeds": seeds}
WIDE = ("layers", "covariance")  # 各占一整行


def figure(arch: str, studies: dict[str, Any], say: Say) -> Figure:
    """Draw layers and covariances above, dimensions and seeds below; a study that is not there takes no place."""
    # 版面：上为各层的组合与各种协方差，各占一整行；下为维数与种子；没有做的不占地方
    there = [name for name in PANELS if name in studies]
    below: HashableList[str] = [name for name in there if name not in WIDE]
    above = [name for name in there if name in WIDE]
    wide: list[HashableList[str]] = [[name] * max(1, len(below)) for name in above]
    mosaic = wide + [below] * bool(below)
    heights = [0.6 + 0.19 * len(studies[name]["variants"]) for name in above] + [2.5] * bool(below)  # 英寸
    drawing = Figure((style.DOUBLE, 0.6 + sum(heights)), layout="constrained")
    panels = drawing.subplot_mosaic(mosaic, height_ratios=heights)
    for name in there:
        PANELS[name](panels[name], studies[name], say)
        panels[name].grid(True)
    words = say("image level", "图像级"), say("pixel level", "像素级")
    # 图例：记号分图像级与像素级
    keys = [
        panels[there[0]].plot([], [], MARKERS[level], ms=4, color=COLOURS[level], label=word)[0]
        for level, word in zip(LEVELS, words, strict=True)
    ]
    drawing.legend(handles=keys, loc="outside lower center", ncols=2)
    classes = sorted({name for study in studies.values() for name in study["classes"]})
    scope = (
        style.printable(classes[0])
        if len(classes) == 1
        else say(f"mean of {len(classes)} classes", f"{len(classes)} 类的平均")
    )
    drawing.suptitle(f"{style.arch_label(arch)}, {scope}", size=style.TEXT_SIZE)
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``ablation_{arch}``."""
    for arch, studies in read(args.result, args.arch):
        yield from save(figure(arch, studies, say), args, f"ablation_{style.arch_short(arch)}")


SCRIPT = Script("ablation", __doc__, draw=draw, on_request=partial(architectures, kind="ablation"))
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
