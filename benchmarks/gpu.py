"""The whole experiment and its parts on a GPU, with pictures like MVTec AD's: speed, memory, agreement with the CPU.

GPU 上的整个实验与各部分：速度、内存、与 CPU 是否一致；图片的张数与大小如 MVTec AD。

python benchmarks/gpu.py                                        all parts, one after the other
python benchmarks/gpu.py --part run --arch wide_resnet50_2      one of them
python benchmarks/gpu.py --part agreement --golden DIR          with DIR/golden/hazelnut_ARCH.npz and DIR/mvtec/hazelnut
python benchmarks/gpu.py --device cpu --divisor 50 --side 64    a trial without a GPU

The figures of all parts are kept in gpu.json and, as a table, in gpu.md below --work.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from system import command

command.yield_while_waiting()  # 与 main.py 相同；须在装入 torch 之前

import numpy as np
import torch

from benchmarks import core
from benchmarks.like_mvtec import NUMBERS, like_mvtec
from benchmarks.report import show, table
from benchmarks.tree import measure
from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from experiment.options import decoding_threads
from padim import BLOCK
from padim.device import describe_device, pick_device, tf32
from padim.gaussian import GaussianStream
from padim.mahalanobis import Gaussians
from padim.metrics import evaluate_maps
from padim.model import PaDiM
from system.errors import UserError
from system.resources import cores

# main.py，末了另报 torch 在各 GPU 上占用的显存的峰值
_MAIN = """
import json, sys
import main
status = main.main(sys.argv[1:])
import torch
devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
print(json.dumps(sum(map(torch.cuda.max_memory_reserved, devices)) or None))
sys.exit(status)
"""


def experiment(args: argparse.Namespace, arch: str, classes: list[str], *options: str) -> dict:
    """main.py on some classes, in a process of its own: seconds of all, of the stages, and the peaks of memory."""
    save = args.work / f"gpu_{arch}"
    words = ["--arch", arch, "--weights", "random", "--device", args.device, "--refit", *options]
    words += ["--data_path", str(args.data), "--save_path", str(save), "--classes", *classes]
    measured = measure([sys.executable, "-c", _MAIN, *words], ROOT)
    results = json.loads((save / f"results_{arch}.json").read_text(encoding="utf-8"))
    rows = [results["classes"][name] for name in classes]
    stages = dict.fromkeys(stage for row in rows for stage in row["seconds"] if stage != "total")
    shutil.rmtree(save)
    return {
        "images": sum(row["n_train"] + row["n_test"] for row in rows),
        "end to end, seconds": measured.seconds,
        "stage, seconds": {stage: sum(row["seconds"].get(stage, 0) for row in rows) for stage in stages},
        "waiting for the evaluation, seconds": results["run"]["evaluation_wait_seconds"],
        "peak main memory, bytes": measured.peak_memory_bytes,
        "peak GPU memory, bytes": json.loads(measured.stdout.splitlines()[-1]),
    }


def run(args: argparse.Namespace, arch: str) -> dict:
    """All classes with all figures, without pickles."""
    return experiment(args, arch, args.classes, "--no_features")


def pickles(args: argparse.Namespace, arch: str) -> dict:
    """Three classes with pickles: fifteen would be 57 GB."""
    return experiment(args, arch, args.classes[:3])


def load(args: argparse.Namespace, data: Path, name: str, split: str) -> tuple[list[torch.Tensor], MVTecDataset, Any]:
    """A split's images in batches, itself, and its masks (N, H, W)."""
    dataset, threads = MVTecDataset(data, name, split), decoding_threads(None, args.found.type)
    images, _, masks = zip(*batches(dataset, core.BATCH, threads), strict=True)
    return list(images), dataset, torch.cat(masks)[:, 0].numpy()


def rates(args: argparse.Namespace, arch: str) -> dict:
    """Images a second of what a run does to each: decoding, network, covariance, distances."""
    model, device = PaDiM(arch, "random", device=args.found), args.found
    start = time.perf_counter()
    images = load(args, args.data, args.classes[0], "train")[0]
    decode, count, d = time.perf_counter() - start, sum(map(len, images)), len(model.dimensions)

    def per_second(work: Callable[[], object], number: int) -> float:
        return number / statistics.median(core.timed(work, device) for _ in range(args.rounds))

    def network() -> None:
        for _ in model.features(images):
            pass

    block = torch.randn((model.positions, min(BLOCK, count), d), device=device)  # (P, m, d)
    stream = GaussianStream(model.positions, d, device)
    network()
    with tf32(False):
        stream.update(block)
        result = {
            "decoding, images a second": count / decode,
            "decoding threads": decoding_threads(None, device.type),
            "network, images a second": per_second(network, count),
            "covariance, images a second": per_second(lambda: stream.update(block), block.shape[1]),
        }
        gaussians = Gaussians(*stream.finish())
        first = core.timed(lambda: gaussians.distances(block), device)
        again = per_second(lambda: gaussians.distances(block), block.shape[1])
    return result | {"distances, images a second": again, "factors, seconds a class": first - block.shape[1] / again}


def precision(args: argparse.Namespace, arch: str) -> dict:
    """What tf32 and bf16 do to speed, maps and ROC AUC."""
    threads = decoding_threads(None, args.found.type)
    return core.precisions(arch, args.found, args.data, args.classes[0], threads, args.rounds)


def latency(args: argparse.Namespace, arch: str) -> dict:
    """One image, batch 1, in seconds."""
    return core.latency(PaDiM(arch, "random", device=args.found), arch, 10 * args.rounds)


@torch.inference_mode()
def layout(args: argparse.Namespace, arch: str) -> dict:
    """Images a second of the truncated network in both memory layouts, without and with cuDNN's own search."""
    graph, result = PaDiM(arch, "random", device=args.found).backbone.graph, {}
    images, before = torch.randn((core.BATCH, 3, 224, 224), device=args.found), torch.backends.cudnn.benchmark
    try:
        for words, form in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last)):
            graph.to(memory_format=form)
            batch = images.contiguous(memory_format=form)
            for search in (False, True):
                torch.backends.cudnn.benchmark = search
                with tf32(False):
                    seconds = [core.timed(partial(graph, batch), args.found) for _ in range(args.rounds + 1)][1:]
                title = f"{words}{', cudnn.benchmark' if search else ''}, images a second"
                result[title] = core.BATCH / statistics.median(seconds)
    finally:
        torch.backends.cudnn.benchmark = before
    return result


def agreement(args: argparse.Namespace, arch: str) -> dict:
    """Maps and ROC AUC of the device against those of the CPU, and against a golden file's."""
    model = PaDiM(arch, "random", device=args.found)
    train, test = (load(args, args.data, args.classes[0], split) for split in ("train", "test"))
    own = maps_of(model, train[0], test[0])
    model.release()
    found = {"CPU": differences(own, maps_of(PaDiM(arch, "random"), train[0], test[0]), *test[1:])}
    if args.golden:
        golden = np.load(args.golden / "golden" / f"hazelnut_{arch}.npz")
        if str(golden["weights_sha256"]) != model.weights_sha256:
            raise UserError("this PyTorch draws other random weights than the golden file's; leave out --golden")
        train, test = (load(args, args.golden / "mvtec", "hazelnut", split) for split in ("train", "test"))
        found["golden file"] = differences(maps_of(model, train[0], test[0]), golden["raw_maps"], *test[1:])
    return found


def maps_of(model: PaDiM, train: list[torch.Tensor], test: list[torch.Tensor]) -> np.ndarray:
    """Raw maps (N, H, W)."""
    model.fit(train)
    return np.concatenate([scores.maps for scores in model.score(test)])


def differences(maps: np.ndarray, wanted: np.ndarray, test: MVTecDataset, masks: np.ndarray) -> dict:
    """The largest relative deviation of maps, and the differences in ROC AUC."""
    own, theirs = (evaluate_maps(each, test.labels, masks).rocauc for each in (maps, wanted))
    result = {f"{k} ROC AUC, difference": (own[k] or 0) - (theirs[k] or 0) for k in own}  # 样本有标注：都有值
    return {"maps, largest relative deviation": float((np.abs(maps - wanted) / wanted).max())} | result


PARTS = {part.__name__: part for part in (run, pickles, rates, precision, latency, layout, agreement)}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    title, _, usage = (__doc__ or "").split("\n\n", 2)
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=f"{title}\n\n{usage}", formatter_class=form)
    add = parser.add_argument
    add("--part", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    add("--arch", nargs="+", choices=["resnet18", "wide_resnet50_2"], default=["resnet18", "wide_resnet50_2"])
    add("--device", default="auto", help="default: CUDA if there is one")
    add("--golden", type=Path, metavar="DIR", help="for agreement: a folder with golden/ and mvtec/hazelnut")
    add("--rounds", type=int, default=5, help="repetitions (default 5)")
    add("--work", type=Path, default=Path("data/benchmark"), help="pictures and figures go here (default %(default)s)")
    add("--classes", nargs="+", choices=list(NUMBERS), default=list(NUMBERS), metavar="NAME", help="default: all")
    add("--divisor", type=int, default=1, help="of the numbers of pictures, for a trial")
    add("--side", type=int, help="of all pictures in pixels, for a trial")
    args = parser.parse_args(argv)
    return command.run(lambda: measure_parts(args))


def measure_parts(args: argparse.Namespace) -> None:
    """Measure the parts wanted, and keep each one's figures as soon as they are there."""
    args.work, args.found = args.work.resolve(), pick_device(args.device)
    args.data = like_mvtec(args.work, args.divisor, args.side)

    conditions = {
        "device": describe_device(args.found),
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}, torch {torch.__version__}",
        "pictures": args.data.name,
        "classes": args.classes,
    }
    file, report = args.work / "gpu.json", {"conditions": conditions, "figures": {}}
    if file.exists() and (earlier := json.loads(file.read_text(encoding="utf-8")))["conditions"] == conditions:
        report = earlier  # 同样的条件：各部分可以分几次做
    for part in args.part:
        for arch in args.arch:
            report["figures"].setdefault(arch, {})[part] = entry = PARTS[part](args, arch)
            show(f"{part}, {arch}", entry)
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            heading = f"{conditions['device']}; {conditions['machine']}; {conditions['pictures']}"
            file.with_suffix(".md").write_text(f"{heading}\n\n{table(report['figures'])}", encoding="utf-8")
    print(f"\nwrote {file} and {file.with_suffix('.md')}")


if __name__ == "__main__":
    sys.exit(main())
