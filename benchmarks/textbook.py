"""The textbook: what the public scripts compute, the way they compute it. Only the benchmark runs it.

教科书实现：公开脚本算什么、怎样算，这里就算什么、怎样算；只供基准测试。

The whole network, every channel of every image concatenated at 56×56 before some are chosen,
``np.cov`` and ``np.linalg.inv`` for every position, SciPy's distance for every image at every
position, scikit-learn's metrics, one figure after another.
"""

import argparse
import json
import pickle
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from skimage.morphology import disk, opening
from skimage.segmentation import mark_boundaries
from sklearn.metrics import precision_recall_curve, roc_auc_score
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from datasets.mvtec import MVTecDataset
from datasets.preprocessing import to_pictures
from padim.device import pick_device, tf32

DIMENSIONS = {"resnet18": (448, 100), "wide_resnet50_2": (1792, 550)}


class Clock:
    """Seconds of each stage, from the end of the one before."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage], self.last = now - self.last, now


def loader_of(data: Path, name: str, split: str) -> DataLoader:
    """One split of a class, as the public scripts read it."""
    # DataLoader 只用到 len 与下标；datasets 不装 torch，MVTecDataset 便不是 torch 的 Dataset
    return DataLoader(MVTecDataset(data, name, split), 32)  # type: ignore[arg-type]


def embed(
    network: torch.nn.Module, device: torch.device, loader: DataLoader, chosen: torch.Tensor, kept: list | None
) -> torch.Tensor:
    """Embeddings (N, d, 3136); ``kept`` takes the batches' images, labels and masks."""
    outputs: dict[str, list[torch.Tensor]] = {"layer1": [], "layer2": [], "layer3": []}
    hooks = [
        getattr(network, name).register_forward_hook(lambda m, i, o, name=name: outputs[name].append(o.cpu()))
        for name in outputs
    ]
    for batch in loader:
        if kept is not None:
            kept.append(batch)
        with torch.no_grad(), tf32(False):  # 与 main.py 同为 float32
            network(batch[0].to(device))
    for hook in hooks:
        hook.remove()
    layers = [torch.cat(parts) for parts in outputs.values()]
    embedding = layers[0]
    for layer in layers[1:]:
        embedding = torch.cat([embedding, interpolate(layer, embedding.shape[2:])], 1)  # 所有通道，56×56
    return embedding.index_select(1, chosen).flatten(2)


def draw(path: Path, image: np.ndarray, truth: np.ndarray, score: np.ndarray, threshold: float) -> None:
    """Write one localization figure."""
    figure, axes = plt.subplots(1, 5, figsize=(12, 3))
    figure.subplots_adjust(right=0.9)
    mask = opening(score > threshold, disk(4))
    titles = ("Image", "GroundTruth", "Predicted heat map", "Predicted mask", "Segmentation result")
    for ax, title in zip(axes, titles, strict=True):
        ax.axis("off")
        ax.set_title(title)
    axes[0].imshow(image)
    axes[1].imshow(truth, cmap="gray")
    heat = axes[2].imshow(score, cmap="jet", vmin=0, vmax=1)
    axes[2].imshow(image)
    axes[2].imshow(score, cmap="jet", alpha=0.5, vmin=0, vmax=1)
    axes[3].imshow(mask, cmap="gray")
    axes[4].imshow(mark_boundaries(image, mask, color=(1, 0, 0), mode="thick"))
    figure.colorbar(heat, cax=figure.add_axes((0.92, 0.15, 0.015, 0.7)))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Fit, score, evaluate and draw one class; print the stages' seconds and the figures of merit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=sorted(DIMENSIONS), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    clock = Clock()
    torch.manual_seed(0)
    device = pick_device(args.device)
    network = getattr(torchvision.models, args.arch)(weights=None).eval().to(device)
    total, d = DIMENSIONS[args.arch]
    random.seed(1024)
    chosen = torch.tensor(random.sample(range(total), d))
    train, test = (loader_of(args.data, args.name, split) for split in ("train", "test"))
    clock("network")

    embedding = embed(network, device, train, chosen, None).numpy()  # (N, d, P)
    clock("train features")
    mean, identity = embedding.mean(0), np.identity(d)
    covariance = np.zeros((d, d, embedding.shape[2]), np.float32)
    for p in range(embedding.shape[2]):
        covariance[:, :, p] = np.cov(embedding[:, :, p], rowvar=False) + 0.01 * identity
    clock("covariances")
    with open(args.out / "features.pkl", "wb") as file:
        pickle.dump([mean, covariance], file)
    del embedding
    clock("save")

    kept: list = []
    embedding = embed(network, device, test, chosen, kept).numpy()
    clock("test features")
    distances = np.empty((len(embedding), embedding.shape[2]))
    for p in range(embedding.shape[2]):
        inverse = np.linalg.inv(covariance[:, :, p])
        distances[:, p] = [mahalanobis(sample[:, p], mean[:, p], inverse) for sample in embedding]
    clock("distances")
    maps = interpolate(torch.from_numpy(distances).view(-1, 1, 56, 56), size=224, mode="bilinear")[:, 0].float().numpy()
    maps = np.stack([gaussian_filter(m, sigma=4) for m in maps])
    scores = (maps - maps.min()) / (maps.max() - maps.min())
    clock("maps")

    images, labels, masks = (torch.cat(column) for column in zip(*kept, strict=True))
    image_rocauc = roc_auc_score(labels, scores.max((1, 2)))
    truth = masks[:, 0].numpy()
    pixel_rocauc = roc_auc_score(truth.ravel(), scores.ravel())
    precision, recall, thresholds = precision_recall_curve(truth.ravel(), scores.ravel())
    a, b = 2 * precision * recall, precision + recall
    threshold = thresholds[np.argmax(np.divide(a, b, out=np.zeros_like(a), where=b != 0)[:-1])]
    clock("metrics")
    for i, picture in enumerate(to_pictures(images.numpy())):
        draw(args.out / f"{i}.png", picture, truth[i], scores[i], threshold)
    clock("figures")
    np.save(args.out / "maps.npy", maps)
    figures = {"image_rocauc": image_rocauc, "pixel_rocauc": pixel_rocauc, "threshold": float(threshold)}
    print(json.dumps({"stages": clock.stages, **figures}))


if __name__ == "__main__":
    main()
