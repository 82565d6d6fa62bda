"""Work on the matrices of many positions: some positions at a time, and triangles of symmetric matrices.

逐段处理各位置的矩阵；对称矩阵的三角部分。
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from system.errors import is_out_of_memory

STRIP = 128  # 一次处理的行数
_CHUNK = 1 << 20  # CPU 上一个线程一次取的矩阵元素数
_POSITIONS = 512  # GPU 上一次取的位置数


def lower_strips(d: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the strips that cover a (d, d) matrix's lower triangle."""
    for row in range(0, d, STRIP):
        yield slice(row, row + STRIP), slice(0, row + STRIP)  # 到对角块为止


def by_chunks(work: Callable[[slice], None], positions: int, d: int, device: torch.device) -> None:
    """Call ``work`` for slices of positions, which together are all of them."""
    if device.type == "cpu":
        _in_threads(work, positions, d)
    else:
        _in_turn(work, positions)


def _in_threads(work: Callable[[slice], None], positions: int, d: int) -> None:
    # 单个矩阵太小，不值得分给多个线程：每个线程独自做几个位置，中间结果留在缓存里
    size = max(1, _CHUNK // d**2)
    chunks = [slice(i, min(i + size, positions)) for i in range(0, positions, size)]
    if len(chunks) == 1:
        work(chunks[0])
        return
    threads = torch.get_num_threads()
    try:
        # 推理模式只对本线程有效；线程数则也成了此后新线程的，所以要还原
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(torch.inference_mode()(work), chunks):
                pass
    finally:
        torch.set_num_threads(threads)


def _in_turn(work: Callable[[slice], None], positions: int) -> None:
    """On a GPU: one slice after the other, halved and tried again when memory does not suffice."""
    size, start = _POSITIONS, 0
    while start < positions:
        here, is_done = slice(start, min(start + size, positions)), False
        try:
            work(here)
            is_done = True
        except RuntimeError as problem:
            if size == 1 or not is_out_of_memory(problem):
                raise
        if is_done:
            start = here.stop
        else:  # 减半重试：work 须能对同一段位置重做。已出 except，失败的那次所占的内存才放得开
            size //= 2
            torch.cuda.empty_cache()
            warnings.warn("memory is short: going on with fewer positions at a time", stacklevel=1)  # 同一处：只说一次


def mirror(chunk: Tensor, upper: bool) -> None:
    """Copy a triangle of matrices (c, d, d), bit for bit: the lower onto the ``upper``, or the upper onto the lower."""
    d = chunk.shape[1]
    # 对角块以外的整块转置；对角块按掩码只换一半
    for row in range(0, d, STRIP):
        rows, rest = slice(row, row + STRIP), slice(row + STRIP, None)
        if upper:
            chunk[:, rows, rest] = chunk[:, rest, rows].mT
        else:
            chunk[:, rest, rows] = chunk[:, rows, rest].mT
        square = chunk[:, rows, rows]
        ones = torch.ones(square.shape[1:], dtype=torch.bool, device=chunk.device)
        square.copy_(torch.where(ones.triu(1) if upper else ones.tril(-1), square.mT, square))
