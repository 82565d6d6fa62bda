"""What the benchmark measures inside one process: the floor, the latency, the precisions, the scaling.

基准测试在一个进程之内测量的：下限、单张延迟、各种精度、规模。

Each prints one JSON object. Everything compared is timed in turn, several times, in this process,
and the medians are reported: on a shared machine only such ratios mean anything.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from system.command import yield_while_waiting

yield_while_waiting()  # 与所比的 main.py 相同；须在装入 torch 之前

import numpy as np
import torch

from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from experiment.options import decoding_threads
from experiment.saving import save
from experiment.score_files import PackedMasks
from padim import PRECISIONS
from padim.backbone import ARCHITECTURES
from padim.device import pick_device, tf32, to_device
from padim.metrics import evaluate_maps
from padim.model import PaDiM
from padim.pretrained import Pretrained
from padim.weights import load_network
from system.files import allocate, close, forget
from system.resources import peak_memory

BATCH = 32


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the GPU's queue included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def one_pass(network: Callable[[torch.Tensor], Any], images: torch.Tensor, model: Pretrained) -> Any:
    """A network's forward pass as it comes, on the device and of the precision of ``model``."""
    images = to_device(images, model.device)
    with tf32(model.precision == "tf32"):
        return network(images.bfloat16() if model.precision == "bf16" else images)


@torch.inference_mode()
def floor(model: PaDiM, data: Path, name: str, workers: int, rounds: int) -> dict:
    """Bare forward pass, bare decoding, and fit + score from decoded tensors."""
    sets = [MVTecDataset(data, name, split) for split in ("train", "test")]
    start = time.perf_counter()
    train, test = ([images for images, _, _ in batches(dataset, BATCH, workers)] for dataset in sets)
    decode = time.perf_counter() - start

    def forward() -> None:
        for images in train + test:
            one_pass(model.backbone, images, model)

    def work() -> None:
        model.fit(train)
        for _ in model.score(test):
            pass

    one_pass(model.backbone, train[0], model)
    pairs = [(timed(forward, model.device), timed(work, model.device)) for _ in range(rounds)]
    bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    path = data.parent / f"train_{model.arch}.pkl"
    model.fit(train)
    saved = timed(lambda: save(model, path), model.device)
    written = path.stat().st_size
    for each in (path, path.with_suffix(".json")):
        each.unlink()
    seconds = {"decode": decode, "forward": bare, "fit and score": ours, "write pickle": saved}
    return seconds | {"ratio": ratio, "pickle_bytes": written}


def as_it_comes(arch: str) -> torch.nn.Module:
    """The network of random weights, cut off behind the last layer that PaDiM reads."""
    network, _ = load_network(arch, "random")
    children, last = dict(network.named_children()), ARCHITECTURES[arch].layers[-1]
    return torch.nn.Sequential(*list(children.values())[: list(children).index(last) + 1])


@torch.inference_mode()
def latency(model: PaDiM, arch: str, rounds: int) -> dict:
    """One image, batch 1: decoded tensor to map, against the truncated network as it comes."""
    generator = torch.Generator().manual_seed(0)
    model.fit(torch.randn(64, 3, 224, 224, generator=generator).split(BATCH))
    image = torch.randn(1, 3, 224, 224, generator=generator)
    plain = as_it_comes(arch).to(model.device)
    if model.precision == "bf16":
        plain.bfloat16()
    for _ in range(3):
        one_pass(plain, image, model)
        list(model.score([image]))
    pairs = [
        (
            timed(lambda: one_pass(plain, image, model).cpu(), model.device),
            timed(lambda: list(model.score([image])), model.device),
        )
        for _ in range(rounds)
    ]
    bare, ours = zip(*pairs, strict=True)
    return {
        "plain median": statistics.median(bare),
        "median": statistics.median(ours),
        "95th percentile": statistics.quantiles(ours, n=20)[-1],
        "ratio": statistics.median(ours) / statistics.median(bare),
    }


@torch.inference_mode()
def precisions(arch: str, device: torch.device, data: Path, name: str, workers: int, rounds: int) -> dict:
    """What each ``--precision`` does to the forward pass's speed, to the maps and to the ROC AUC."""
    train, test = (MVTecDataset(data, name, split) for split in ("train", "test"))
    fitted = [images for images, _, _ in batches(train, BATCH, workers)]
    scored, masks = zip(*((images, mask[:, 0]) for images, _, mask in batches(test, BATCH, workers)), strict=True)
    names = [each for each in PRECISIONS if each != "tf32" or device.type == "cuda"]
    models = {each: PaDiM(arch, "random", device=device, precision=each) for each in names}

    def forward(model: PaDiM) -> None:
        for _ in model.features(scored):
            pass

    times = [[timed(partial(forward, m), device) for m in models.values()] for _ in range(rounds + 1)][1:]
    seconds = dict(zip(names, map(statistics.median, zip(*times, strict=True)), strict=True))
    result: dict = {}
    for each, model in models.items():
        model.fit(fitted)
        maps = np.concatenate([scores.maps for scores in model.score(scored)])
        model.release()
        found = evaluate_maps(maps, test.labels, torch.cat(masks).numpy())
        areas = {level: area for level, area in found.rocauc.items() if area is not None}  # 样本有标注：都有值
        if each == "float32":
            exact, exact_areas = maps, areas
        deviations = np.abs(maps - exact) / exact
        result[each] = {
            "forward, times faster": seconds["float32"] / seconds[each],
            "maps, median relative deviation": float(np.median(deviations)),
            "maps, largest relative deviation": float(deviations.max()),
            **{f"{level} ROC AUC, difference": areas[level] - exact_areas[level] for level in areas},
        }
    return result


def scaling(model: PaDiM, images: int) -> dict:
    """Fit time and peak memory for a stream of so many images of the model's size."""

    def stream() -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, images, BATCH):
            yield torch.randn(min(BATCH, images - start), 3, *model.size, generator=generator)

    seconds = timed(lambda: model.fit(stream()), model.device)
    return {"images": images, "fit": seconds, "peak_memory_bytes": peak_memory()}


def evaluation(images: int) -> dict:
    """Seconds and peak memory of evaluating so many maps of 224×224 in a mapped file; 5 % of the pixels defect."""
    rng, masks, side = np.random.default_rng(0), PackedMasks((images, 224, 224)), 224
    with TemporaryDirectory() as folder:
        maps = allocate(Path(folder) / "maps.npy", np.float32, (images, side, side))
        for i in range(images):
            mask = np.zeros((1, side, side), np.uint8)
            if i % 3:  # 三分之一没有缺陷
                y, x = rng.integers(0, side - 64, 2)
                mask[0, y : y + 58, x : x + 64] = 1
            masks[i : i + 1] = mask
            maps[i] = rng.gamma(4, 1, (side, side)) + 2 * mask[0]
        forget(maps)
        before = peak_memory() or 0
        seconds = timed(lambda: evaluate_maps(maps, np.arange(images) % 3 > 0, masks), torch.device("cpu"))
        close(maps)
    return {"images": images, "evaluate": seconds, "more memory bytes": (peak_memory() or 0) - before}


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["floor", "latency", "precisions", "scaling", "evaluation"])
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), help="of all but evaluation")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--images", type=int)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.what == "evaluation":
        print(json.dumps(evaluation(args.images)))
        return
    device = pick_device(args.device)
    threads = decoding_threads(None, device.type)
    if args.what == "precisions":
        print(json.dumps(precisions(args.arch, device, args.data, args.name, threads, args.rounds)))
        return
    model = PaDiM(args.arch, "random", device=device, size=(args.side, args.side))
    if args.what == "floor":
        result = floor(model, args.data, args.name, threads, args.rounds)
    elif args.what == "latency":
        result = latency(model, args.arch, args.rounds)
    else:
        result = scaling(model, args.images)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
