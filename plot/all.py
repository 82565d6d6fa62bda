"""Every figure that the results at hand allow, and the results page; lists what was drawn, what was skipped and why.

现有结果画得出的所有图与结果网页；列出画了什么，略过了什么、为何。
"""

import _root  # noqa: F401, I001

import argparse
import multiprocessing
import os
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Thread

from _options import Parser, parser, report
from _results import EVERY, WITHOUT_GAUSSIANS, WITHOUT_MAPS, architectures, open_results
from results_page import write_page

from experiment.methods import split_key
from experiment.report.style import chinese_font, class_order, look
from system import command
from system.errors import UserError
from system.resources import cores

# 各脚本；每个模型一图的，逐个模型画，一个模型的问题不连累另一个
ALL_ARCHITECTURES = ("framework", "auroc_table", "complexity", "localization")
EACH_ARCHITECTURE = {  # 与画不了的方法
    "model_parameters": WITHOUT_GAUSSIANS, "roc_curve": EVERY, "pro_curve": WITHOUT_MAPS,
    "precision_recall": WITHOUT_MAPS, "score_distribution": EVERY, "gaussian_parameters": WITHOUT_GAUSSIANS,
    "patch_gaussian": WITHOUT_GAUSSIANS, "calibration": WITHOUT_GAUSSIANS,
}  # fmt: skip
EACH_CLASS = ("localization", "gaussian_parameters", "patch_gaussian", "training_pictures")  # 有 --class 的


def _languages(text: str) -> list[str]:
    chosen = text.split(",")
    if set(chosen) - {"en", "zh"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not en, zh or en,zh")
    return chosen


def options() -> Parser:
    """The command line: the common options, where ``--lang`` takes both languages."""
    return parser(__doc__, language=_languages)


def by_class(script_and_options: str, archs: list[str], root: Path) -> list[list[str]]:
    """The calls of a script, one for every class where it draws classes: trouble in one is to cost no other."""
    script, *own = call = script_and_options.split()
    if script not in EACH_CLASS:
        return [call]
    try:
        found = open_results(
            root, archs, WITHOUT_MAPS, script == "training_pictures", unscored=script == "gaussian_parameters"
        )
    except UserError:  # 脚本自己会说明
        found = []
    counts = Counter(name for results in found for name in results.classes)
    least = 2 if "--compare" in own else 1  # 并排至少要两个模型
    names = class_order(name for name in counts if counts[name] >= least)
    return [[*call, f"--class={name}"] for name in names] or [call]


def figure(call: list[str], shared: dict, archs: list[str], language: str) -> list[Path]:
    """Draw one script's figures; its own options stand behind its name."""
    script, *own = call
    module = import_module(script)
    words = ["--result", str(shared["result"]), "--out", str(shared["out"]), "--format", ",".join(shared["format"])]
    words += ["--dpi", str(shared["dpi"]), "--lang", language, *own, *(["--arch", *archs] if archs else [])]
    with look(language) as say:
        return list(module.draw(module.options().parse_args(words), say))


def obey_parent() -> None:
    """In a child process: leave Ctrl-C to the parent, and end when the parent has ended, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # 只在子进程里调用

    def follow() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # 终端的 Ctrl-C 送给整个进程组；子进程由主进程来收
    Thread(target=follow, daemon=True).start()


def draw(args: argparse.Namespace) -> None:
    """Draw with a process a core, and tell in order what was written, then what was skipped.

    Raises
    ------
    UserError
        If no Chinese font is installed for ``--lang zh``.
    OSError
        If a figure cannot be written.
    """
    if "zh" in args.lang:  # 没有字体，哪一张都画不成：不是略过
        chinese_font()
    shared = {key: getattr(args, key) for key in ("result", "out", "format", "dpi")}
    archs = args.arch or architectures(args.result)
    # 一项任务：一个脚本，若干模型；再分到各个类别与语言
    jobs = [(script, args.arch or []) for script in ALL_ARCHITECTURES]
    for script, lacking in EACH_ARCHITECTURE.items():
        jobs += [(script, [arch]) for arch in archs if split_key(arch)[0] not in lacking] if archs else [(script, [])]
    with_maps = [arch for arch in archs if split_key(arch)[0] not in WITHOUT_MAPS]
    if len(with_maps) > 1:
        jobs.append(("localization --compare", with_maps))
    # 留一得分要用选项，研究是另一条命令：多半没有做
    left_out = [arch for arch in archs if any(args.result.glob(f"temp_{arch}/*_left_out.npz"))]
    jobs += [("training_pictures", [arch]) for arch in left_out]
    jobs += [("ablation", [arch]) for arch in architectures(args.result, "ablation") if arch in (args.arch or [arch])]
    skipped: list[str] = []  # 两种语言的缘由相同，末了只说一次
    # 进程而非线程：matplotlib 的设置是全局的。spawn：各平台行为一致；绘图进程启动只需半秒
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), obey_parent) as pool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # 子进程承袭它：还没走到 obey_parent 的，也不理 Ctrl-C
        try:
            drawing = [
                (call, names, pool.submit(figure, call, shared, names, language))
                for script, names in jobs
                for call in by_class(script, names, args.result)
                for language in args.lang
            ]
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            for call, names, future in drawing:
                try:
                    report(future.result())
                except UserError as problem:  # 数据不全，画不成：记下缘由，接着画别的
                    of_which = f" ({', '.join(names)})" if names else ""
                    skipped.append(f"skipped {' '.join(call)}{of_which}: {problem}")
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # 不等手头的图画完
                child.terminate()
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    try:
        report([write_page(args.result)])
    except UserError as problem:
        skipped.append(f"skipped results_page: {problem}")
    for line in dict.fromkeys(skipped):
        print(line)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options().parse_args(argv)
    return command.run(lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())
