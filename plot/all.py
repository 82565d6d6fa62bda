"""Every figure that the results at hand allow, and the results page; lists what was drawn, what was skipped and why.

现有结果画得出的所有图与结果网页；列出画了什么，略过了什么、为何。
"""

import _root  # noqa: F401, I001

import argparse
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Thread

from _options import Parser, parser, report
from _results import architectures
from results_page import write_page

from experiment.style import chinese_font, look
from system import command
from system.errors import UserError
from system.resources import cores

# 各脚本；每个架构一图的，逐个架构画，一个架构的问题不连累另一个
ALL_ARCHITECTURES = ("framework", "auroc_table", "complexity", "localization")
EACH_ARCHITECTURE = (
    "model_parameters", "roc_curve", "pro_curve", "precision_recall", "score_distribution", "gaussian_parameters",
    "patch_gaussian",
)  # fmt: skip
EACH_CLASS = ("localization", "gaussian_parameters", "patch_gaussian", "training_pictures")  # 有 --all 的


def _languages(text: str) -> list[str]:
    chosen = text.split(",")
    if set(chosen) - {"en", "zh"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not en, zh or en,zh")
    return chosen


def options() -> Parser:
    """The command line: the common options, where ``--lang`` takes both languages."""
    return parser(__doc__, language=_languages)


def figure(script: str, shared: dict, arch: str | None, language: str) -> list[Path]:
    """Draw one script's figures, of every class where it has such an option."""
    module = import_module(script)
    words = ["--result", str(shared["result"]), "--out", str(shared["out"]), "--format", ",".join(shared["format"])]
    words += ["--dpi", str(shared["dpi"]), "--lang", language]
    words += ([f"--arch={arch}"] if arch else []) + (["--all"] if script in EACH_CLASS else [])
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
    archs: list[str | None] = [args.arch] if args.arch else [*architectures(args.result)] or [None]
    # 一项任务：一个脚本，一个网络，一种语言
    jobs = [(script, args.arch) for script in ALL_ARCHITECTURES]
    jobs += [(script, arch) for script in EACH_ARCHITECTURE for arch in archs]
    # 留一得分要用选项，研究是另一条命令：多半没有做
    left_out = [arch for arch in archs if arch and any(args.result.glob(f"scores_{arch}/*_left_out.npz"))]
    jobs += [("training_pictures", arch) for arch in left_out]
    if any(args.result.glob("ablation_*.json")):
        jobs.append(("ablation", args.arch))
    skipped: list[str] = []  # 两种语言的缘由相同，末了只说一次
    # 进程而非线程：matplotlib 的设置是全局的。spawn：各平台行为一致；绘图进程启动只需半秒
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), obey_parent) as pool:
        drawing = [
            (script, arch, pool.submit(figure, script, shared, arch, language))
            for script, arch in jobs
            for language in args.lang
        ]
        try:
            for script, arch, future in drawing:
                try:
                    report(future.result())
                except UserError as problem:  # 数据不全，画不成：记下缘由，接着画别的
                    skipped.append(f"skipped {script}{f' ({arch})' if arch else ''}: {problem}")
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
