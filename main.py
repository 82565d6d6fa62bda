"""PaDiM on MVTec AD, any folder in its layout, or another data set: fit, score, evaluate, draw, class by class.

PaDiM 的全部实验（论文第 III、IV 节）：在 MVTec AD 或自己的数据上逐类拟合、打分、评估、作图。

References
----------
Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", ICPR 2020 workshops, arXiv 2011.08785.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment import options
from system import command

if TYPE_CHECKING:
    from argparse import Namespace

    from datasets.folder import FolderDataset
    from experiment.run import Run
    from experiment.score_files import ScoreFiles

INTERRUPTED = "interrupted; the same command goes on from the last finished class"


def experiment(args: "Namespace") -> None:
    """The whole experiment.

    Raises
    ------
    system.errors.UserError
        For what the user must change.
    """
    from experiment.run import Run  # 连带 torch：--help 与参数错误不必等它

    with Run(args) as run:  # 能预先检查的，进来之前都检查过
        for name in run.classes():  # 一类一个模型；续跑时只剩未完成的类
            train, test = run.datasets(name)  # 训练集只有正常图像，测试集正常、缺陷都有
            fit(run, train)  # III.A、III.B：嵌入，各位置的高斯
            leave_out(run, train, test)  # 没有带标签的测试集时，阈值由此而来
            validate(run)  # 有验证集的数据集：阈值由它而来
            files = score(run, test)  # III.C：马氏距离，异常图
            run.finish(test, files)  # IV.A：评估与作图，与下一类的计算同时进行
        run.report()  # ROC 曲线、结果表、复现结论


def fit(run: "Run", train: "FolderDataset") -> None:
    """One Gaussian at every patch position, from the training pictures (paper, III.A and III.B)."""
    if run.load_fitted():  # 同样的配置、同样的图片：直接用已存的
        return
    with run.stage("fit"):
        # (B, 3, H, W) 的各批 → 均值 (P, d)、协方差 (P, d, d)；有多个进程时，各算一份再合并
        run.model.fit(run.batches(train, "train"), **run.together)
    run.save_fitted()  # 在后台写，不等它


def leave_out(run: "Run", train: "FolderDataset", test: "FolderDataset") -> None:
    """Every training picture as if its lot, or it alone, had been left out: a threshold without a label."""
    if lots := run.lots(train, test):
        with run.good_scores(train, lots) as scores:
            images = scores.keep(run.batches(train, "leave out", lots))  # keep：图片留到得分出来，好存下最不寻常的几张
            # 闭式解：不必为每一批重新拟合
            for block in run.padim.leave_out(images, lots.sizes, **run.waiting):
                scores.append(block)


def validate(run: "Run") -> None:
    """Validation pictures, in the data sets that have them: their scores take the place of left-out ones."""
    if pictures := run.validation():
        with run.good_scores(pictures) as scores:
            images = scores.keep(run.batches(pictures, "validation"))
            for block in run.padim.score(images, **run.waiting):
                scores.append(block)


def score(run: "Run", test: "FolderDataset") -> "ScoreFiles":
    """Mahalanobis distances, up-sampled and smoothed: the anomaly maps of the test pictures (paper, III.C)."""
    with run.score_files(test) as files:
        images = files.keep(run.batches(test, "test").with_masks())  # keep：图片与掩码留待评估与作图
        # Cholesky 因子要覆盖协方差的内存，waiting：先等存盘把它读完
        for block in run.model.score(images, **run.waiting):
            files.append(block)
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options.experiment(argv)
    return command.run(lambda: experiment(args), INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
