"""What large images cost: time a picture, memory, the pickle, the exported model; a row of a table for each side.

图片加大的代价：每张图片的时间、内存、pickle 与导出模型的大小；每种边长一行。

python benchmarks/sizes.py                                   224 to 2048 pixels, resnet18 and efficientnet_lite0
python benchmarks/sizes.py --sides 1024 --more=--rd=50       with other options of main.py
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tree import measure
from datasets.sample import Drawn, write_classes
from system import command
from system.errors import UserError

NAME = "flange"
SIDES, ARCHITECTURES = (224, 512, 1024, 2048), ("resnet18", "efficientnet_lite0")
TRAIN, TEST = 40, 8
HEAD = ("network", "side", "fit, a picture", "score, a picture", "peak memory", "pickle", "exported model")


def row(arch: str, side: int, data: Path, work: Path, more: Sequence[str]) -> list[str]:
    """Fit, score and export with images of this side; what does not fit says so in its place."""
    save = work / f"sizes_{arch}_{side}"
    words = [sys.executable, "main.py", "--arch", arch, "--weights", "random", "--data_path", str(data), *more]
    words += ["--classes", NAME, "--resize", str(side), "--crop", "0", "--batch_size", "4", "--figures", "none"]
    try:
        main = measure([*words, "--save_path", str(save)], ROOT)
        spent = json.loads((save / f"results_{arch}.json").read_text(encoding="utf-8"))["classes"][NAME]["seconds"]
        pickle, exported = save / f"temp_{arch}" / f"train_{NAME}.pkl", save / "exported" / f"{NAME}.onnx"
        exported.parent.mkdir()
        size = f"{pickle.stat().st_size / 1e9:.2f} GB"
        told = [f"{spent['fit'] / TRAIN:.2f} s", f"{spent['score'] / TEST:.2f} s"]
        told += [f"{(main.peak_memory_bytes or 0) / 1e9:.1f} GB", size]
        try:
            measure([sys.executable, "export.py", "--model", str(pickle), "--out", str(exported)], ROOT)
            told.append(f"{sum(file.stat().st_size for file in exported.parent.iterdir()) / 1e9:.2f} GB")
        except UserError as problem:
            told.append(_reason(problem))
    except UserError as problem:
        told = [_reason(problem)]
    finally:
        shutil.rmtree(save, ignore_errors=True)
    return [arch, str(side), *told]


def _reason(problem: UserError) -> str:
    """The command's own words of what it would need."""
    return str(problem).rpartition("error: ")[2].strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    title, _, examples = (__doc__ or "").split("\n\n")
    description = f"{title}\n\n{examples}"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="pixels (default 224 512 1024 2048)")
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, help="(default resnet18 efficientnet_lite0)")
    parser.add_argument("--more", action="append", default=[], help="an option of main.py, --more=--rd=50 for instance")
    parser.add_argument("--work", type=Path, default=Path("data/benchmark"), help="pictures and results go here")
    return command.run(lambda: table(parser.parse_args(argv)))


def table(args: argparse.Namespace) -> None:
    """Print the table in Markdown, row by row; of a network and side each command runs in a process of its own."""
    work = args.work.resolve()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for arch in args.arch:
        for side in args.sides:
            data = work / f"pictures_{TRAIN}_{TEST}_{side}"
            if not data.exists():
                write_classes(data, {NAME: Drawn(NAME, TRAIN, TEST, side)})
            print(f"| {' | '.join(row(arch, side, data, work, args.more))} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
