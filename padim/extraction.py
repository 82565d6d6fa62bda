"""Images to embeddings, a bounded number at a time: the stream that fitting and scoring read.

图片到嵌入的流：内存有界，拟合与打分都由此读取（论文 III.A）。
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor

from padim.backbone import Backbone
from padim.batches import Batch, images_of
from padim.device import empty, tf32, to_device
from padim.embedding import Embedding, Shape, principal_components
from padim.gaussian import GaussianStream
from system.errors import is_out_of_memory

FORWARD = 8  # CPU 上一次前向的图片数，至多；与批大小无关
POOLED = 4  # 求主成分时一次展开全部通道的图片数

Embed = Callable[[Sequence[Tensor], Tensor], None]  # `Embedding` 或 `Projection`


class Extractor:
    """The network's outputs for images, and their embeddings.

    Parameters
    ----------
    backbone : Backbone
    size : (int, int)
        Height and width of the images.
    device : torch.device
    precision : str
        Of the forward pass.
    most : int, optional
        How many images pass the network together; by default a batch.
    """

    def __init__(
        self, backbone: Backbone, size: tuple[int, int], device: torch.device, precision: str, most: int | None
    ):
        self._backbone, self._size, self._device, self._precision = backbone, size, device, precision
        self._most = most
        self._buffer: Tensor | None = None

    def release(self) -> None:
        """Free the memory of the embeddings."""
        self._buffer = None

    @torch.inference_mode()
    def features(self, batches: Iterable[Batch]) -> Iterator[list[Tensor]]:
        """The layers' outputs, a few images at a time where that is faster or memory is short.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Or whatever `padim.batches.images_of` takes.

        Yields
        ------
        list of Tensor, (b, C_l, H_l, W_l)
            Of the network's precision, each layer at its own resolution.

        Raises
        ------
        TypeError, ValueError
            As by `padim.batches.images_of`.
        """
        for images in images_of(batches, self._size):
            images, start = to_device(images, self._device), 0
            while start < len(images):
                part, features = images[start : start + (self._most or len(images))], None
                try:
                    with tf32(self._precision == "tf32"):  # 默认不用 TF32
                        features = self._backbone(part.bfloat16() if self._precision == "bf16" else part)
                except RuntimeError as problem:
                    if len(part) == 1 or not is_out_of_memory(problem):
                        raise
                if features is not None:
                    yield features
                    start += len(part)
                else:  # 内存不足：减半再试，此后也按此数。已出 except，失败的那次前向所占的才放得开
                    self._most = len(part) // 2
                    torch.cuda.empty_cache()
                    warnings.warn(f"memory is short: going on with batches of {self._most}", stacklevel=1)

    @torch.inference_mode()
    def blocks(
        self,
        batches: Iterable[Batch],
        embed: Embed,
        positions: int,
        dimensions: int,
        most: int,
        sizes: Sequence[int] | None = None,
    ) -> Iterator[Tensor]:
        """Embeddings (P, m, d) float32 of successive images; one buffer.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
        embed : callable
            An `Embedding` or a `Projection`.
        positions, dimensions : int
            P and d.
        most : int
            m of each block, where ``sizes`` does not say another; the last block has what is left.
        sizes : sequence of int, optional
            m of each block.

        Raises
        ------
        ValueError
            If there are not as many images as ``sizes`` says.
        """
        limits, filled = iter(sizes if sizes is not None else repeat(most)), 0
        most = max((most, *(sizes or ())))
        if self._buffer is None or self._buffer.shape[1] < most:  # 拟合与打分共用：近 1 GB 的内存，初次写入也费时
            self._buffer = None  # 先让出小的
            self._buffer = empty((positions, most, dimensions), self._device)
        buffer, size = self._buffer, next(limits, 0)
        for features in self.features(batches):
            start, count = 0, len(features[0])
            while start < count:  # 一批可跨两块：块的边界不随批大小移动
                if not size:
                    raise ValueError(f"there are more images than the {sum(sizes or ())} that the sizes say")
                taken = min(count - start, size - filled)
                part = [feature[start : start + taken] for feature in features]
                # 对齐、拼接、降维，直接写入块中这几张图的位置：(P, taken, d)
                with tf32(False):  # 主成分的投影是矩阵乘
                    embed(part, buffer[:, filled : filled + taken])
                start, filled = start + taken, filled + taken
                if filled == size:
                    yield buffer[:, :filled]
                    filled, size = 0, next(limits, 0)
        if sizes is not None and (filled or size):
            raise ValueError(f"there are fewer images than the {sum(sizes)} that the sizes say")
        if filled:
            yield buffer[:, :filled]  # 最后不满的一块

    @torch.inference_mode()
    def components(
        self,
        batches: Iterable[Batch],
        shapes: Sequence[Shape],
        kept: int,
        add: Callable[[Tensor], Tensor] | None,
        leads: bool,
    ) -> Tensor:
        """Principal components (d, t_d) of images' embeddings, of all positions together (paper, section V.A).

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
        shapes : sequence of (int, int, int)
            The layers' channels, heights and widths.
        kept : int
            d.
        add, leads
            As for `padim.model.PaDiM.fit`.
        """
        channels, positions = sum(shape[0] for shape in shapes), shapes[0][1] * shapes[0][2]
        pooled = GaussianStream(1, channels, self._device)  # 论文 V.A：各位置合为一个高斯
        every = Embedding(shapes, range(channels), self._device)  # 全部通道，不抽取
        for features in self.features(batches):
            for part in zip(*(feature.split(POOLED) for feature in features), strict=True):
                block = torch.empty((positions, len(part[0]), channels), device=self._device)
                every(part, block)
                with tf32(False):
                    pooled.update(block.view(1, -1, channels))  # (1, P·b, t_d)
        if add:
            with tf32(False):
                pooled.merge(add)  # 合并各进程的散布
        covariance = pooled.finish()[1][0]  # εI 不改变特征向量
        components = principal_components(covariance, kept).contiguous()
        # 特征向量的符号、重根的方向因机器而异：各进程须用同一组
        return components if add is None else add(components if leads else components.zero_())
