"""The methods and the networks, one row each: what is printed, what they lack, what was published. Imports no torch.

方法与网络的总表，每种一行：印出的名字，没有什么，发表过什么。

Their order is that of every table and figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """PaDiM, or one of its predecessors.

    Attributes
    ----------
    label : str
        Its name in print.
    arch, demo : str
        The network that ``--method`` brings, and the one that it brings with ``--demo``.
    meaningless : tuple of str
        Options that mean nothing for it.
    has_maps : bool
        Whether pictures get anomaly maps.
    has_gaussians : bool
        Whether a class is stored as Gaussians, with left-out scores.
    published : tuple of str
        Networks with which metrics were published.
    tolerance : float
        How far reproduced metrics may lie from the published ones, which have three digits.
    has_published_weights : bool
        Whether those metrics were made with torchvision's weights.
    """

    label: str
    arch: str
    demo: str
    meaningless: tuple[str, ...]
    has_maps: bool = True
    has_gaussians: bool = True
    published: tuple[str, ...] = ()
    tolerance: float = 0.005
    has_published_weights: bool = True


@dataclass(frozen=True)
class Network:
    """A backbone that has a name in print; any other is called by torchvision's.

    Attributes
    ----------
    label, tag : str
        Its name, and the short one of table heads and file names.
    rd : int or None
        The channels that PaDiM's published metrics were made with.
    is_installed : bool
        Whether its ImageNet weights come with the requirements, so that nothing need be downloaded.
    """

    label: str
    tag: str
    rd: int | None = None
    is_installed: bool = False


_OF_PADIM = ("layers", "rd", "reduction", "leave_out", "no_features", "region")
METHODS = {
    "padim": Method(
        "PaDiM", "wide_resnet50_2", "efficientnet_lite0", ("top_k",), published=("resnet18", "wide_resnet50_2"),
    ),
    "spade": Method(
        "SPADE", "wide_resnet50_2", "resnet18", _OF_PADIM, has_gaussians=False,
        published=("wide_resnet50_2",), tolerance=0.01,  # 公开脚本漏掉图库末尾不足一百的向量，这里没有
    ),
    "mahalanobis_ad": Method(
        "MahalanobisAD", "efficientnet_b4", "efficientnet_b4", (*_OF_PADIM, "top_k", "figures", "colours"),
        has_maps=False, has_gaussians=False,
        published=("efficientnet_b4",), has_published_weights=False,  # 发表值出自另一个包的权重
    ),
}  # fmt: skip
NETWORKS = {
    "resnet18": Network("ResNet18", "R18", 100),
    "wide_resnet50_2": Network("WideResNet50", "WR50", 550),
    "efficientnet_lite0": Network("EfficientNet-Lite0", "ENL0", is_installed=True),
    "efficientnet_b4": Network("EfficientNet-B4", "ENB4"),
    "efficientnet_b5": Network("EfficientNet-B5", "ENB5"),
}
PUBLISHED_LAYERS = {"layer1", "layer2", "layer3"}  # PaDiM 发表时的两个网络都是；给出的次序无关


def key_of(method: str, arch: str) -> str:
    """The name under which a model's results are filed."""
    return arch if method == "padim" else f"{method}_{arch}"  # PaDiM 的键就是网络名


def split_key(key: str) -> tuple[str, str]:
    """A model's method, as ``--method`` names it, and its backbone: `key_of` undone."""
    method = next((method for method in METHODS if key.startswith(f"{method}_")), "padim")
    return method, key.removeprefix(f"{method}_")


def method_of(key: str) -> Method:
    """The row of a model's method."""
    return METHODS[split_key(key)[0]]


def place(key: str) -> tuple[int, int, str]:
    """Where a model stands among others, to sort by: PaDiM's first."""
    method, arch = split_key(key)
    networks = list(NETWORKS)
    return list(METHODS).index(method), networks.index(arch) if arch in networks else len(networks), arch


def is_published(key: str) -> bool:
    """Whether metrics of this model were published."""
    return split_key(key)[1] in method_of(key).published


def tolerance_of(key: str) -> float:
    """How far a model's reproduced metrics may lie from the published ones."""
    return method_of(key).tolerance if is_published(key) else Method.tolerance


def has_other_weights(key: str) -> bool:
    """Whether a model's published metrics were made with weights that are not torchvision's."""
    return is_published(key) and not method_of(key).has_published_weights


def own_choices(options: Mapping[str, Any]) -> set[str]:
    """Which of ``rd`` and ``layers`` are given, and are what PaDiM was published with."""
    network = NETWORKS.get(options["arch"])
    if network is None or network.rd is None:
        return set()
    is_own = {"rd": options.get("rd") == network.rd, "layers": set(options.get("layers") or ()) == PUBLISHED_LAYERS}
    return {name for name, own in is_own.items() if own}
