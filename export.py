"""Export what main.py fitted for a class as one ONNX file: prepared pictures in, anomaly maps and scores out.

把 main.py 拟合的一类导出成一个 ONNX 文件：预处理过的图片进，异常图与得分出。
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

from experiment import options
from system import command
from system.errors import UserError
from system.files import check_writable, size


def export(args: Namespace) -> None:
    """Write the file.

    Parameters
    ----------
    args : argparse.Namespace
        From `experiment.options.exporting`.

    Raises
    ------
    UserError
        For what the user must change.
    """
    if tuple(map(int, version("torch").split(".")[:2])) < (2, 9):
        raise UserError(
            f"export.py needs PyTorch 2.9 or newer, and {version('torch')} is installed; "
            "python -m pip install -r requirements-export.txt"
        )
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"export.py needs {' and '.join(missing)}; python -m pip install -r requirements-export.txt")
    with command.importing():
        from experiment.report.threshold import find_thresholds
        from experiment.scoring.onnx_export import EXAMPLE, bytes_besides, metadata, write_exported
        from experiment.scoring.torch_model import StoredModel

    # All is checked before anything is written: 先查后做
    stored = StoredModel(args.model, "cpu")
    if (precision := stored.record["precision"]) != "float32":
        raise UserError(
            f"{str(args.model)!r} was made with --precision {precision}, and only float32 is exported; "
            "fit again without --precision"
        )
    thresholds = find_thresholds(args.model, stored.record, None, None)
    check_writable(args.out.parent)
    besides = bytes_besides(stored.record["pickle_bytes"], args.half)
    stored.load(args.weights, EXAMPLE, EXAMPLE, besides, "a fit with a smaller --rd or --arch")
    described = metadata(stored.name, stored.record, thresholds, args.half)
    for path in write_exported(args.out, stored.model, described):
        print(f"wrote exported model: {path} ({size(path.stat().st_size)})")
    print(f"to score pictures with it: python predict.py --model {args.out} PICTURES")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options.exporting(argv, __doc__ or "")
    return command.run(lambda: export(args))


if __name__ == "__main__":
    sys.exit(main())
