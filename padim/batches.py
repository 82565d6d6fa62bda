"""Batches of images as loaders give them, and one clear error for whatever is none.

各种加载器给出的图片批；不合用的，各报一个清楚的错。
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = Tensor | Sequence[Any]  # 图片，或以图片开头的元组、列表：DataLoader 给出的 (图片, 标签, 掩码)


def images_of(batches: Iterable[Batch], size: tuple[int, int]) -> Iterator[Tensor]:
    """The images of each batch.

    Parameters
    ----------
    batches : iterable of Tensor, or of tuples or lists whose first item is one
    size : (int, int)
        Height and width that the images must have.

    Yields
    ------
    Tensor, (B, 3, H, W) float32

    Raises
    ------
    TypeError
        If ``batches`` is itself an array or a tensor, or a batch holds no tensor of float32.
    ValueError
        If images are of another shape, or hold values that are not finite.
    """
    if isinstance(batches, (Tensor, np.ndarray)):
        raise TypeError(f"one {type(batches).__name__} in place of batches; give a list, [images] for instance")
    for batch in batches:
        images: Any = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        _check(images, size)
        yield images


def _check(images: Any, size: tuple[int, int]) -> None:
    if not isinstance(images, Tensor):
        kind = f"{type(images).__module__}.{type(images).__qualname__}"
        raise TypeError(f"a batch is {kind}, not a tensor; torch.from_numpy makes one of an array")
    if images.dtype != torch.float32:
        raise TypeError(f"the images are {images.dtype}; give float32, normalised with ImageNet's mean and deviation")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"the images are {tuple(images.shape)}, not (B, 3, H, W); image[None] makes a batch of one")
    if tuple(images.shape[2:]) != size:
        here, own = ("x".join(map(str, each)) for each in (images.shape[2:], size))
        raise ValueError(f"the images are {here} (height x width), the model is for {own}")
    # 和是有限的，各项就都是：只读一遍内存，不到前向的百分之一；不有限的，也许只是和溢出，才逐项去看
    if not images.sum().isfinite() and not images.isfinite().all():
        raise ValueError("the images hold values that are NaN or infinite")
