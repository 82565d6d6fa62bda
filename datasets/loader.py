"""Batches of torch tensors from a data set with NumPy items; the only file of this folder that imports torch.

把数据集的 NumPy 样本叠成 torch 张量的批；本文件夹中只有这里装入 torch。
"""

from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

from datasets.read_ahead import Indexed, read_ahead


def batches(dataset: Indexed, batch_size: int, workers: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the data set in order, as stacked batches; the last may be smaller.

    Parameters
    ----------
    dataset : Indexed
        Its items are tuples of arrays or NumPy scalars; an element has the same shape and dtype in all of them.
    batch_size : int
    workers : int
        Threads that decode ahead, by three batches at most; 0 decodes in the caller's thread.

    Yields
    ------
    tuple of Tensor
        One tensor ``(B, ...)`` for each element of an item, of its dtype.

    Raises
    ------
    Exception
        Whatever an item raises, as it was raised.
    """
    with closing(read_ahead(dataset, batch_size, workers)) as ahead:  # 中途不要了，解码线程也随之结束
        for items in ahead:
            # 样本的同一项叠成一个张量：(B, …)
            yield tuple(torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*items, strict=True))
