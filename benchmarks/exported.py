"""The exported model beside the stored one: one picture at a time, and what float16 matrices do to the maps.

导出的模型与存下的模型对照：单张延迟，以及 float16 的白化矩阵对异常图的影响。

Each prints one JSON object. Everything compared is timed in turn, in this process; ratios are medians over the rounds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from system.command import yield_while_waiting

yield_while_waiting()  # 与所比的 predict.py 相同；须在装入 torch 之前

import numpy as np
import onnxruntime
import torch

from benchmarks.core import BATCH, as_it_comes, timed
from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing, to_images, to_pictures
from experiment.models import describe
from experiment.report.threshold import Thresholds
from experiment.scoring.onnx_export import metadata, write_exported
from experiment.scoring.onnx_model import ExportedModel, session_options
from padim.backbone import ARCHITECTURES
from padim.metrics import evaluate_maps
from padim.model import PaDiM

CPU = torch.device("cpu")


def exported(model: PaDiM, folder: Path, half: bool = False) -> tuple[ExportedModel, int]:
    """A fitted model, which gives its Gaussians up, as predict.py opens it, and the bytes of its files."""
    record = describe(model) | {"preprocessing": Preprocessing().record(), "training_files": "0", "pickle_bytes": 0}
    nothing = Thresholds(None, None, "none")
    described = metadata("x", record, nothing, half)
    files = write_exported(folder / f"{model.arch}{'_half' * half}.onnx", model, described)
    return ExportedModel(files[0], "cpu"), sum(path.stat().st_size for path in files)


def network_alone(model: PaDiM, folder: Path) -> Callable[[np.ndarray], Any]:
    """The truncated network in onnxruntime, run as `ExportedModel` runs the whole."""
    path = folder / f"{model.arch}_network.onnx"
    network = torch.nn.Sequential(model.backbone).eval()  # 导出器不许最外层的模块有名为 graph 的部分
    torch.onnx.export(network, (torch.zeros(1, 3, *model.size),), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})


@torch.inference_mode()
def latency(arch: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds from one prepared picture to its map and score; the networks alone beside them."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 3, 224, 224, generator=generator).split(BATCH)
    with torch.inference_mode(False):
        onnx, _ = exported(PaDiM(arch, "random").fit(noise), folder)
        model = PaDiM(arch, "random").fit(noise)
        network = network_alone(model, folder)
    plain = as_it_comes(arch)
    picture = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    image = to_images(picture)
    works: dict[str, Callable[[], Any]] = {
        "torch, network as it comes": lambda: plain(torch.from_numpy(image)),
        "torch, network folded": lambda: model.backbone(torch.from_numpy(image)),
        "torch": lambda: list(model.score([torch.from_numpy(to_images(picture))])),
        "onnxruntime, network": lambda: network(image),
        "onnxruntime": lambda: list(onnx.score([picture])),
    }
    times = np.array([[timed(work, CPU) for work in works.values()] for _ in range(rounds + 3)][3:])  # 前三轮是预热
    column = dict(zip(works, times.T, strict=True))

    def ratio(one: str, other: str) -> float:
        return float(np.median(column[one] / column[other]))  # 每一轮的比：机器忙闲的变化两者分担

    distance = float(np.median(column["onnxruntime"] - column["onnxruntime, network"]))
    covariance = model.state()[1]
    reading = statistics.median(timed(covariance.sum, CPU) for _ in range(5))
    return {
        "median": {work: float(np.median(seconds)) for work, seconds in column.items()},
        "quickest": {work: float(seconds.min()) for work, seconds in column.items()},
        "onnxruntime / torch": ratio("onnxruntime", "torch"),
        "onnxruntime / its network": ratio("onnxruntime", "onnxruntime, network"),
        "onnxruntime / torch, network as it comes": ratio("onnxruntime", "torch, network as it comes"),
        "matrices, bytes": covariance.nbytes,
        "distance reads, GB/s": covariance.nbytes / distance / 1e9,
        "a sum of them reads, GB/s": covariance.nbytes / reading / 1e9,
    }


def half(arch: str, data: Path, name: str, folder: Path) -> dict[str, Any]:
    """Deviations of exported maps, and of ROC AUC, from those of the stored features; whole and --half."""
    train, test = (MVTecDataset(data, name, split) for split in ("train", "test"))
    fitted = [images for images, _, _ in batches(train, BATCH, 1)]
    scored, masks = zip(*((images, mask[:, 0]) for images, _, mask in batches(test, BATCH, 1)), strict=True)
    truth = torch.cat(masks).numpy()
    model = PaDiM(arch, "random").fit(fitted)
    exact = np.concatenate([scores.maps for scores in model.score(scored)])
    wanted = evaluate_maps(exact, test.labels, truth).rocauc
    result: dict[str, Any] = {}
    for title, halved in (("exported", False), ("exported, --half", True)):
        onnx, size = exported(model.fit(fitted), folder, halved)
        maps = np.concatenate([s.maps for s in onnx.score(to_pictures(images.numpy()) for images in scored)])
        found = evaluate_maps(maps, test.labels, truth).rocauc
        deviations = np.abs(maps / exact - 1)
        result[title] = {
            "file bytes": size,
            "maps, median relative deviation": float(np.median(deviations)),
            "maps, largest relative deviation": float(deviations.max()),
        }
        for level, ours in found.items():
            theirs = wanted[level]
            assert ours is not None and theirs is not None  # 样本有标注
            result[title][f"{level} ROC AUC, difference"] = ours - theirs
    return result


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["latency", "half"])
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--work", type=Path, required=True, help="the files, up to 8 GB, are here meanwhile")
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=args.work) as folder:
        if args.what == "latency":
            result = latency(args.arch, Path(folder), args.rounds)
        else:
            result = half(args.arch, args.data, args.name, Path(folder))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
