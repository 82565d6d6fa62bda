"""Items of a data set in order, decoded ahead by threads.

按序取数据集的样本，由线程提前解码。
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol


class Indexed(Protocol):
    """What can be read ahead: a length, and items by number from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def read_ahead(dataset: Indexed, batch_size: int, workers: int) -> Generator[list[Any], None, None]:
    """Yield the data set in order, as lists of ``batch_size`` items; the last may be shorter.

    Parameters
    ----------
    dataset : Indexed
        Read from several threads at once.
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
    pool = ThreadPoolExecutor(max(workers, 1), "decode")  # 线程就够：Pillow 解码、缩放时不占解释器锁

    def refill() -> None:
        while len(ahead) < 3 * batch_size and (index := next(indices, None)) is not None:
            # 没有解码线程时记为 None：轮到了才由调用者解码
            ahead.append((index, pool.submit(dataset.__getitem__, index) if workers else None))

    def take(count: int) -> list[Any]:
        items = [ahead.popleft() for _ in range(count)]
        # 主线程不空等：解码线程从前往后，它从后往前，解码还没轮到的图片
        own = {i: dataset[i] for i, future in reversed(items) if future is None or future.cancel()}
        return [own[i] if i in own else future.result() for i, future in items]

    try:
        refill()
        while ahead:
            items = take(min(batch_size, len(ahead)))
            refill()  # before these are handed out: 这一批在用，解码不停
            yield items
    finally:
        pool.shutdown(cancel_futures=True)  # 中途停止：排着队的不再解码
