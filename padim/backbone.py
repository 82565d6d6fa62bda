"""The pretrained network, cut off behind the last layer that PaDiM reads.

预训练网络，截到 PaDiM 所读的最后一层为止（论文 III.A 与 IV.B）。

References
----------
Defard et al., arXiv 2011.08785, sections III.A and IV.B (backbones).
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from padim import efficientnet_lite as lite
from padim.graph import dry_run, fold_batch_norm, keep_returned, layer_names, open_sequences, receptive_fields, trace
from system.errors import UserError, is_out_of_memory


@dataclass(frozen=True)
class Architecture:
    """What a backbone needs.

    Attributes
    ----------
    layers : tuple of str
        The modules whose outputs are read, by the network's names.
    dimensions : int or None
        How many random channels are kept; None keeps all, in their natural order.
    """

    layers: tuple[str, ...]
    dimensions: int | None


# 在此登记一行，一个骨干网络就有了默认值；未登记的 torchvision 网络用 --layers 指明各层
ARCHITECTURES = {
    "resnet18": Architecture(("layer1", "layer2", "layer3"), 100),  # 论文的 R18-Rd100
    "wide_resnet50_2": Architecture(("layer1", "layer2", "layer3"), 550),  # 论文的 WR50-Rd550
    "efficientnet_b5": Architecture(("features.2", "features.4", "features.5"), None),  # 第 2、4、5 阶段之末
    lite.NAME: Architecture(("stage2", "stage3", "stage5"), 100),  # 通道数与 ResNet18 的相同
}


@dataclass(frozen=True)
class Layer:
    """One layer's output for the input size at hand; strides and receptive field in pixels."""

    name: str
    channels: int
    height: int
    width: int
    stride: int
    receptive_field: int


def find_architecture(arch: str, layers: Sequence[str] | None = None) -> Architecture:
    """The entry of `ARCHITECTURES`, or one made for other layers: then all their channels are kept.

    Parameters
    ----------
    arch : str
        ``efficientnet_lite0``, or any of torchvision's classification networks.
    layers : sequence of str, optional
        Needed where ``arch`` has no entry.

    Raises
    ------
    UserError
        If there is no such network, or no ``layers`` where they are needed.
    """
    known = [*list_models(module=torchvision.models), lite.NAME]
    if arch not in known:
        close = difflib.get_close_matches(arch.lower(), known, 4, 0.5) or list(ARCHITECTURES)
        raise UserError(f"torchvision has no network {arch!r}; --arch takes {', '.join(close)} and others")
    entry = ARCHITECTURES.get(arch)
    if entry and (not layers or set(layers) == set(entry.layers)):
        return entry
    if not layers:
        names = ", ".join(layer_names(get_model(arch, weights=None))[:8])
        raise UserError(f"which layers of {arch} to read is not known; give some with --layers ({names}, …)")
    return Architecture(tuple(dict.fromkeys(layers)), None)  # 自选的层：通道全部保留


class Backbone(nn.Module):
    """The network up to the last of ``layers``, with batch norm folded into the convolutions.

    Parameters
    ----------
    network : nn.Module
        A classification network, as `load_network` gives it.
    layers : sequence of str
        The modules whose outputs are the features.

    Attributes
    ----------
    layers : tuple of str
        In the order of the calculation, shallowest first.

    Raises
    ------
    UserError
        If there is no such layer.

    Notes
    -----
    Folding changes a feature by float32 rounding only. The memory format is channels-last, in
    which the convolutions are faster and a position's channels lie side by side.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        try:
            # 只留下到最后一层为止的计算图：之后的部分不存在，也就不会被计算
            self.graph = trace(network.eval(), layers)
        except ValueError as problem:
            there = layer_names(network)
            absent = next((n for n in layers if n not in there), None)
            if absent is None:
                raise
            close = difflib.get_close_matches(absent, there, 4, 0.5) or there[:8]
            message = f"the network has no layer {absent!r}; --layers takes {', '.join(close)}, …"
            raise UserError(message) from problem
        nodes = list(self.graph.graph.nodes)
        returned = nodes[-1].args[0]  # 最后一个节点是输出：层名 → 节点
        self.layers = tuple(sorted(layers, key=lambda name: nodes.index(returned[name])))  # 由浅到深：首层定网格
        open_sequences(self.graph)  # 拆开 Sequential，其中的批归一化才看得见
        fold_batch_norm(self.graph)  # eval 模式下它是逐通道的仿射变换，可并入卷积
        keep_returned(self.graph)  # 特征图不被其后的就地 ReLU 改写
        self.graph.requires_grad_(False).to(memory_format=torch.channels_last)  # 卷积更快，各位置的通道相邻

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), normalised → one (B, C, H_l, W_l) a layer, channels-last."""
        features = self.graph(images.contiguous(memory_format=torch.channels_last))  # III.A：各层的特征图
        return [features[name] for name in self.layers]

    def describe(self, height: int, width: int) -> list[Layer]:
        """Every layer's output for images of this size.

        Raises
        ------
        UserError
            If a layer's output is no feature map, or the network does not take images of this size: too
            small for it, or too large for the memory there is.
        """
        try:
            returned, most = dry_run(self.graph, height, width)
            features = [returned[name] for name in self.layers]
            device = next(self.parameters()).device
            torch.empty(most, dtype=torch.uint8, device=device)  # 只是预订：主存不写入就不占用
        except (RuntimeError, AssertionError, MemoryError) as problem:
            reason = " ".join(str(problem).split())[:120]
            # 元素个数或字节数溢出，也是太大
            if is_out_of_memory(problem) or any(words in str(problem) for words in ("overflow", "exceeds the limit")):
                raise UserError(
                    f"images of {height}x{width} are too large for this machine ({reason}); "
                    "give a smaller --resize and --crop, or another --arch"
                ) from problem
            raise UserError(
                f"the network takes no images of {height}x{width} ({reason}); "
                "give a larger --resize and --crop, or another --arch"
            ) from problem
        fields = receptive_fields(self.graph)
        layers = []
        for name, feature in zip(self.layers, features, strict=True):
            shape, (field, stride) = tuple(feature.shape[1:]), fields[name]
            # 没有行列的（ViT）、通道排在最后的（Swin）都不是 (C, H, W)：行列之比须与图像相同，各差不过一格
            if len(shape) != 3 or abs(shape[2] * height - shape[1] * width) > height + width:
                size = " × ".join(map(str, shape))
                raise UserError(
                    f"layer {name!r} gives {size} values, no map of channels × height × width; see --layers"
                )
            seen = max(height, width) if math.isinf(field) else int(field)  # 全局池化：看见整张图
            layers.append(Layer(name, *shape, stride, seen))
        return layers

    def activation_bytes(self, height: int, width: int) -> int:
        """The most that the values within one image's forward pass take at one time, float32."""
        return dry_run(self.graph, height, width)[1]
