"""Textbook SPADE and MahalanobisAD in float64: torchvision's whole network, every distance from a difference."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import LedoitWolf
from torch.nn.functional import interpolate

from padim.weights import load_network

LEVELS = [*(f"features.{i}" for i in range(7)), "features.7.0", "features.8"]  # EfficientNet-B1 至 B4


def outputs(arch: str, names: list[str], images: torch.Tensor) -> list[np.ndarray]:
    """What modules give for images of the seeded network, each (N, C, H, W) float64."""
    network, found = load_network(arch, "random")[0].double(), {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: found.__setitem__(name, output.clone())
        )
    with torch.no_grad():
        network(images.double())
    return [found[name].numpy() for name in names]


def spade(arch: str, train: torch.Tensor, test: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, H, W) and image scores (N,)."""
    names = ["layer1", "layer2", "layer3", "avgpool"]
    *gallery, pooled = outputs(arch, names, train)
    *queries, vectors = outputs(arch, names, test)
    distances = cdist(vectors[:, :, 0, 0], pooled[:, :, 0, 0])
    maps = []
    for n, row in enumerate(distances):
        neighbours, layers = np.argsort(row)[:k], []
        for query, layer in zip(queries, gallery, strict=True):
            channels, *grid = query[n].shape
            vectors = layer[neighbours].transpose(0, 2, 3, 1).reshape(-1, channels)
            nearest = cdist(query[n].reshape(channels, -1).T, vectors).min(1).reshape(1, 1, *grid)
            layers.append(interpolate(torch.from_numpy(nearest), test.shape[2:], mode="bilinear")[0, 0].numpy())
        maps.append(gaussian_filter(np.mean(layers, 0), sigma=4))
    return np.stack(maps), np.sort(distances, 1)[:, :k].mean(1)


def mahalanobis_ad(arch: str, train: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    """Image scores (N,)."""
    total = np.zeros(len(test))
    for x, y in zip(outputs(arch, LEVELS, train), outputs(arch, LEVELS, test), strict=True):
        normal = x.mean((2, 3))
        inverse = np.linalg.inv(LedoitWolf().fit(normal).covariance_)
        total += [mahalanobis(vector, normal.mean(0), inverse) for vector in y.mean((2, 3))]
    return total
