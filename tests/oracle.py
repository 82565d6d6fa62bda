"""A textbook PaDiM in float64: the whole network, all channels, a loop over positions."""

import random

import numpy as np
import torch
import torchvision
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis


def features(arch: str, images: torch.Tensor) -> np.ndarray:
    """All channels of layer1–layer3 at 56×56, (N, t_d, 56, 56) float64."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, arch)(weights=None).eval().double()
    outputs = {}
    for name in ("layer1", "layer2", "layer3"):
        getattr(network, name).register_forward_hook(lambda m, i, o, name=name: outputs.__setitem__(name, o))
    with torch.no_grad():
        network(images.double())
    maps = [outputs[name].numpy() for name in ("layer1", "layer2", "layer3")]
    return np.concatenate([m.repeat(56 // m.shape[2], 2).repeat(56 // m.shape[3], 3) for m in maps], 1)


def draw(total: int, kept: int) -> list[int]:
    random.seed(1024)
    return random.sample(range(total), kept)


def raw_maps(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Raw anomaly maps (N, 224, 224) of embeddings (N, d, 56, 56)."""
    distances = np.empty((len(test), 56, 56))
    for y in range(56):
        for x in range(56):
            mean = train[:, :, y, x].mean(0)
            inverse = np.linalg.inv(np.cov(train[:, :, y, x], rowvar=False) + 0.01 * np.eye(train.shape[1]))
            for n in range(len(test)):
                distances[n, y, x] = mahalanobis(test[n, :, y, x], mean, inverse)
    upsampled = torch.nn.functional.interpolate(torch.from_numpy(distances)[:, None], size=224, mode="bilinear")
    return np.stack([gaussian_filter(m, sigma=4) for m in upsampled[:, 0].numpy()])
