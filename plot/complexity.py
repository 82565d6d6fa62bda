"""Seconds a stage and peak memory, from the runs' own records and from the benchmark's file.

各阶段的时间与峰值内存（论文 V.D），取自各次运行的记录与基准测试的文件。
"""

import _root  # noqa: F401, I001

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _options import Parser, Script, save
from _results import Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiment.report import style
from experiment.report.style import Say
from system.errors import UserError
from system.files import read_json

STAGES = {
    "fingerprint": "指纹", "load": "读取", "fit": "拟合", "leave_out": "留出", "validation": "验证", "save": "保存",
    "score": "打分", "evaluate": "评估", "figures": "绘图",
}  # fmt: skip
# 教科书实现把同样的工作分得更细：归并后两者才能对照
MERGED = {
    "train features": "fit", "covariances": "fit", "test features": "score", "distances": "score", "maps": "score",
    "metrics": "evaluate", "network": "other",
}  # fmt: skip
OTHER = "other"
SLIGHT = 0.005  # 占比更小的阶段不列入图例


def benchmark_option(made: Parser) -> None:
    """Add ``--benchmark``."""
    made.add_argument(
        "--benchmark", type=Path, metavar="FILE",
        help="what benchmarks/run.py --json wrote (default: benchmark.json in the result folder, if it is there)",
    )  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One row of the figure.

    Attributes
    ----------
    label : str
    stages : dict
        Seconds.
    memory : int or None
        Peak resident bytes.
    floor : float or None
        Seconds that the forward passes and the decoding alone take.
    """

    label: str
    stages: dict[str, float]
    memory: float | None
    floor: float | None = None


def merged(stages: dict[str, float], total: float) -> dict[str, float]:
    """Seconds by this program's stages, and as ``other`` what they leave of the total."""
    result: dict[str, float] = {}
    for stage, seconds in stages.items():
        if stage not in ("total", "communication"):  # 通信含在其他阶段之内
            name = MERGED.get(stage, stage)
            result[name] = result.get(name, 0) + seconds
    rest = total - sum(result.values())  # 没有计入任何阶段的
    return result | ({OTHER: result.get(OTHER, 0) + rest} if rest > SLIGHT * total else {})


def of_run(results: Results, label: str, say: Say) -> Bar:
    """A run's row: the seconds of an average class, and the peak memory."""
    seconds = [row["seconds"] for row in results.content["classes"].values()]
    names = dict.fromkeys(stage for each in seconds for stage in each)
    average = {stage: float(np.mean([each.get(stage, 0) for each in seconds])) for stage in names}
    stages = merged(average, average["total"])
    return Bar(f"{label}\n{say('a class', '每类平均')}", stages, results.content["run"].get("peak_memory_bytes"))


def of_benchmark(path: Path, archs: Sequence[str] | None, say: Say) -> list[Bar]:
    """Two rows for each network: the textbook implementation, and this one with the floor.

    Raises
    ------
    UserError
        If the file is missing or holds something else.
    """
    content = read_json(path)
    remedy = f"make it with: python benchmarks/run.py --json {path}"
    if content is None:
        raise UserError(f"{str(path)!r} (--benchmark) is not there or is no JSON; {remedy}")
    bars = []
    try:
        for each, record in content["architectures"].items():
            if archs and each not in archs:
                continue
            floor = record["floor"]["forward"] + record["floor"]["decode"]  # 再快也省不掉的
            for key, name in (("textbook", say("textbook", "教科书实现")), ("padim", say("this program", "本程序"))):
                stages = merged(record[key]["stages"], record[key]["end_to_end"])
                memory, label = record[key]["peak_memory_bytes"], f"{style.arch_label(each)}\n{name}"
                bars.append(Bar(label, stages, memory, floor if key == "padim" else None))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{str(path)!r} (--benchmark) is no benchmark of this program; {remedy}") from None
    return bars


def stage_colours(bars: list[Bar]) -> dict[str, str]:
    """A colour for every stage that occurs, grey for the rest."""
    names = list(dict.fromkeys(s for bar in bars for s in bar.stages if s != OTHER))
    ordered = [s for s in STAGES if s in names] + [s for s in names if s not in STAGES]
    colours = {s: style.PALETTE[i % len(style.PALETTE)] for i, s in enumerate(ordered)}
    return colours | ({OTHER: "0.75"} if any(OTHER in bar.stages for bar in bars) else {})


def rows(times: Axes, memories: Axes, bars: list[Bar], colours: dict[str, str], say: Say) -> None:
    """Draw the seconds stacked on the left, and the peak memory on the right."""
    places = range(len(bars))
    longest = max(sum(bar.stages.values()) for bar in bars)
    largest = max([bar.memory or 0 for bar in bars]) / 1e9
    for y, bar in zip(places, bars, strict=True):
        # 左：各阶段首尾相接，末端写总秒数，虚线是下限
        left = 0.0
        for stage in (s for s in colours if s in bar.stages):
            times.barh(y, bar.stages[stage], 0.62, left, color=colours[stage])
            left += bar.stages[stage]
        times.text(left + 0.015 * longest, y, f"{left:.1f}", va="center", size=style.SMALL_SIZE)
        if bar.floor is not None:
            times.plot([bar.floor] * 2, [y - 0.42, y + 0.42], color="black", lw=1.2, ls=(0, (2, 1)))
        # 右：峰值内存
        if bar.memory is not None:
            memories.barh(y, bar.memory / 1e9, 0.62, color="0.5")
            memories.text(
                bar.memory / 1e9 + 0.02 * largest, y, f"{bar.memory / 1e9:.2f}", va="center", size=style.SMALL_SIZE
            )
    times.set_yticks(places, [bar.label for bar in bars])
    memories.set_yticks(places, [])
    for axes, most, title in (
        (times, longest, say("Seconds", "时间（秒）")),
        (memories, largest or 1, say("Peak memory (GB)", "峰值内存（GB）")),
    ):
        axes.set(xlim=(0, most * 1.2), ylim=(len(bars) - 0.5, -0.5))
        axes.set_title(title)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)


def figure(groups: list[tuple[str, list[Bar]]], say: Say) -> Figure:
    """Draw a row of two panels for each group of bars that can be compared."""
    counts = [len(bars) for _, bars in groups]
    drawing = Figure((style.DOUBLE, 0.5 + sum(0.62 + 0.36 * n for n in counts)), layout="constrained")
    # 能相互比较的为一组，一组一行，行高随条数
    panels = drawing.subplots(
        len(groups), 2, squeeze=False, width_ratios=(2.2, 1), height_ratios=[n + 1 for n in counts]
    )
    colours = stage_colours([bar for _, bars in groups for bar in bars])
    for (title, bars), (times, memories) in zip(groups, panels, strict=True):
        rows(times, memories, bars, colours, say)
        times.set_title(f"{title}{say(': seconds', '：时间（秒）')}")
    # 所有柱里都微不足道的阶段不列入图例
    everything = [bar.stages for _, bars in groups for bar in bars]
    visible = [s for s in colours if any(stages.get(s, 0) > SLIGHT * sum(stages.values()) for stages in everything)]
    keys = [
        Patch(color=colours[s], label=say(s.replace("_", " "), {**STAGES, OTHER: "其余"}.get(s, s))) for s in visible
    ]
    if any(bar.floor is not None for _, bars in groups for bar in bars):
        floor = say("forward passes and decoding alone", "仅前向计算与解码")
        keys.append(times.plot([], [], color="black", lw=1.2, ls=(0, (2, 1)), label=floor)[0])
    drawing.legend(handles=keys, loc="outside lower center", ncols=3 if len(keys) == 6 else min(5, len(keys)))
    return drawing


def draw(args: argparse.Namespace, say: Say) -> Iterator[Path]:
    """Write ``complexity``."""
    opened = {results.store.key: results for results in SCRIPT.results(args.result, args.arch)}
    labels = style.arch_labels(opened)
    groups = [(say("Run", "运行记录"), [of_run(results, labels[key], say) for key, results in opened.items()])]
    path = args.benchmark or args.result / "benchmark.json"
    if args.benchmark or path.exists():
        groups.append((say("Benchmark", "基准测试"), of_benchmark(path, args.arch, say)))
    yield from save(figure([group for group in groups if group[1]], say), args, "complexity")


SCRIPT = Script("complexity", __doc__, draw=draw, own_options=benchmark_option, each_model=False)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())
