"""What the benchmark measures of SPADE or MahalanobisAD inside one process.

基准测试在一个进程之内对前身的测量。

Prints one JSON object: seconds of decoding, of the bare forward passes, of fit and score from decoded tensors, timed in
turn, and the ratio of the latter to the former. The scores go to a file.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.core import BATCH, one_pass, timed  # 先于 torch：它定线程怎样等待

# isort: split

import numpy as np
import torch

from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from padim.baselines.mahalanobis_ad import MahalanobisAD
from padim.baselines.spade import SPADE
from padim.device import pick_device
from system.files import scratch
from system.resources import cores


@torch.inference_mode()
def main() -> None:
    """Measure one class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=["spade", "mahalanobis_ad"])
    parser.add_argument("--arch", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, required=True, help="an .npz file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)

    def mapped(shape: tuple[int, int]) -> np.ndarray:
        return scratch(args.out.parent, shape)

    model: SPADE | MahalanobisAD
    if args.method == "spade":
        model = SPADE(args.arch, "random", device, allocate=mapped)
    else:
        model = MahalanobisAD(args.arch, "random", device)
    sets = [MVTecDataset(args.data, args.name, split) for split in ("train", "test")]
    start = time.perf_counter()
    train, test = ([images for images, _, _ in batches(dataset, BATCH, cores())] for dataset in sets)
    decode = time.perf_counter() - start
    blocks: list = []

    def forward() -> None:
        for images in train + test:
            one_pass(model.backbone, images, model)

    def score() -> None:
        blocks[:] = model.score(test)

    one_pass(model.backbone, train[0], model)
    rows = [
        (timed(forward, device), timed(lambda: model.fit(train), device), timed(score, device))
        for _ in range(args.rounds)
    ]
    bare, fitting, scoring = (statistics.median(column) for column in zip(*rows, strict=True))
    maps = [block.maps for block in blocks if model.has_maps]
    scores = np.concatenate([block.image_scores for block in blocks])
    np.savez(args.out, maps=np.concatenate(maps) if maps else np.empty(0), image_scores=scores)
    seconds = {"decode": decode, "forward": bare, "fit": fitting, "score": scoring, "an image": scoring / len(scores)}
    print(json.dumps(seconds | {"ratio": statistics.median((b + c) / a for a, b, c in rows)}))


if __name__ == "__main__":
    main()
