"""Batches from a data set, decoded ahead by threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import Dataset


def batches(dataset: Dataset, batch_size: int, workers: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the data set in order, as stacked batches; the last may be smaller.

    Parameters
    ----------
    dataset : Dataset
        Its items are tuples of tensors of equal shape.
    batch_size : int
    workers : int
        Threads that decode ahead, by three batches at most; 0 decodes in the caller's thread.

    Raises
    ------
    Exception
        Whatever an item raises, as it was raised.

    Notes
    -----
    Threads, and not the processes of ``torch.utils.data.DataLoader``: Pillow decodes and resizes
    outside the interpreter lock, so threads scale as well, and they start at once, need no shared
    memory segment, import nothing again where processes are spawned, and never duplicate the
    covariance where they are forked (every page written after a fork is copied).
    """
    ahead: deque = deque()  # (下标, future)，按序
    indices = iter(range(len(dataset)))
    # 解码线程里的张量运算各用一线程，不与网络争抢
    pool = ThreadPoolExecutor(max(workers, 1), "decode", initializer=torch.set_num_threads, initargs=(1,))

    def refill() -> None:
        while len(ahead) < 3 * batch_size and (index := next(indices, None)) is not None:
            ahead.append((index, pool.submit(dataset.__getitem__, index) if workers else None))

    def take(count: int) -> list[tuple[Tensor, ...]]:
        items = [ahead.popleft() for _ in range(count)]
        # 主线程不空等：解码线程从前往后，它从后往前，解码还没轮到的图片
        own = {i: dataset[i] for i, future in reversed(items) if future is None or future.cancel()}
        return [own[i] if i in own else future.result() for i, future in items]

    try:
        refill()
        while ahead:
            items = take(min(batch_size, len(ahead)))
            refill()
            yield tuple(torch.stack(column) for column in zip(*items, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
