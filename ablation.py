"""The paper's studies from one pass of the backbone: layers, dimensions, the spread over seeds; and the covariance.

论文的几项研究（层、维数、随机种子），以及协方差的，骨干网络只过一遍。

The Gaussian of all t_d channels holds those of every variant (`padim.variants`): the network sees every
picture once.

References
----------
Defard et al., arXiv 2011.08785, section V.A (inter-layer correlation; dimensionality reduction).
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment import options
from system import command

if TYPE_CHECKING:
    from argparse import Namespace

INTERRUPTED = "interrupted; classes that are finished are in the file"


def experiment(args: "Namespace") -> None:
    """The studies, class by class.

    Raises
    ------
    UserError
        For what the user must change.
    """
    with command.importing():
        from experiment.study_run import StudyRun  # 连带 torch：--help 与参数错误不必等它
        from padim.variants import maps_of

    with StudyRun(args) as run:
        for name in run.classes():
            train, test = run.images(name)
            run.model.fit(train)  # III.A、III.B：全部通道的高斯，各种变体都在其中
            features, components = run.features(test), run.components()
            for variant in run.variants():  # V.A：取出变体的高斯，算它的异常图与数字
                run.take(variant, maps_of(run.model, variant, features, components))
            run.finish()
        run.report()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options.study(argv)
    return command.run(lambda: experiment(args), INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
