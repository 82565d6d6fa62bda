"""SPADE as its public script computes it, for a few test pictures. Only the benchmark runs it.

教科书 SPADE：公开脚本怎样算，这里就怎样算，只算几张测试图；只供基准测试。

The whole network, every training picture's features in memory, and for each test picture a walk over the gallery in
hundreds of vectors, the differences to all positions broadcast. Two slips of the script are left out, as in
`padim.baselines.spade`: the last, incomplete hundred counts, and norms are over the channels.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torchvision
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from benchmarks.textbook import loader_of
from padim.device import pick_device, tf32

LAYERS = ("layer1", "layer2", "layer3", "avgpool")
TOP_K = 5


def main() -> None:
    """Score the first test pictures; write their maps and scores, and print the seconds a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, required=True, help="how many test pictures")
    parser.add_argument("--out", type=Path, required=True, help="an .npz file")
    args = parser.parse_args()

    torch.manual_seed(0)
    device = pick_device(args.device)
    network = getattr(torchvision.models, args.arch)(weights=None).eval().to(device)
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in LAYERS}
    for name in LAYERS:
        getattr(network, name).register_forward_hook(lambda m, i, o, name=name: outputs[name].append(o))

    def features(images: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad(), tf32(False):  # 与 main.py 同为 float32
            network(images.to(device))
        return [outputs[name].pop() for name in LAYERS]

    parts = [features(images) for images, _, _ in loader_of(args.data, args.name, "train")]
    *gallery, pooled = (torch.cat(layer) for layer in zip(*parts, strict=True))
    tests = [images[i : i + 1] for images, _, _ in loader_of(args.data, args.name, "test") for i in range(len(images))]
    maps, scores, start = [], [], time.perf_counter()
    for image in tests[: args.images]:
        *layers, vector = features(image)
        distances = (pooled - vector).flatten(1).norm(dim=1)
        nearest, neighbours = distances.topk(TOP_K, largest=False)
        upsampled = []
        for layer, known in zip(layers, gallery, strict=True):
            channels = layer.shape[1]
            vectors = known[neighbours].permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
            walked = [(vectors[i : i + 100] - layer).norm(dim=1) for i in range(0, len(vectors), 100)]
            least = torch.cat(walked).min(0).values  # (H_l, W_l)
            upsampled.append(interpolate(least[None, None], size=image.shape[2:], mode="bilinear")[0, 0])
        maps.append(gaussian_filter(torch.stack(upsampled).mean(0).cpu().numpy(), sigma=4))
        scores.append(float(nearest.mean()))
    seconds = (time.perf_counter() - start) / len(maps)
    np.savez(args.out, maps=np.stack(maps), image_scores=np.array(scores, np.float32))
    print(json.dumps({"an image": seconds}))


if __name__ == "__main__":
    main()
