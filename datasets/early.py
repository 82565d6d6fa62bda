"""The first pictures of a data set, decoded by a process of its own while this one is busy with imports.

一个数据集的头几张图片，由另一个进程先解码：这时本进程正忙着装入别的东西。

Threads would wait: a picture is read in pieces, each of which asks for the interpreter's lock, and imports hold it. The
process, ``python -m datasets.early``, imports no torch. It writes prepared pictures, one after another, to a file that
has no name, and so goes with the last process that has it open; it ends when its standard input does, whatever has
become of whoever held the other end.
"""

import copy
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from datasets.folder import FolderDataset

FEWEST = 50  # 再少，就不值得起一个进程（四分之一核秒）
MOST = 1 << 25  # 至多解码出这么多字节


class Early:
    """A data set without masks, decoded from its first picture on until its items are wanted; they are its own.

    Parameters
    ----------
    dataset : FolderDataset
    size : (int, int)
        Height and width of its pictures as prepared.

    Raises
    ------
    OSError
        If there can be no such process, or no such file.
    """

    def __init__(self, dataset: FolderDataset, size: tuple[int, int]):
        self._dataset, self._file = dataset, TemporaryFile()  # noqa: SIM115
        self._pictures = np.empty((0, *size, 3), np.uint8)
        first, most = copy.copy(dataset), MOST // prod(self._pictures.shape[1:])
        first.files, first.kinds, first.masks = dataset.files[:most], dataset.kinds[:most], dataset.masks[:most]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "datasets.early"],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,  # 它读不了的图片，轮到时由本进程来报
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # 终端的 Ctrl-C 不到它那里
        )
        assert self._process.stdin
        with suppress(OSError):  # 它没能起来：一张也不解码
            pickle.dump(first, self._process.stdin)
            self._process.stdin.flush()

    def of(self, dataset: FolderDataset) -> "Early | FolderDataset":
        """The same data set, with what is decoded by now; any other as it is, and then nothing is kept."""
        self.close()
        if dataset.files == self._dataset.files:
            return self
        self._pictures = self._pictures[:0].copy()
        return dataset

    def close(self) -> None:
        """End the process, which finishes the picture that it is at."""
        if self._file.closed:
            return
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        shape = self._pictures.shape[1:]
        if ready := os.fstat(self._file.fileno()).st_size // prod(shape):  # 写了一半的不算
            self._pictures = np.asarray(np.memmap(self._file, np.uint8, "r", shape=(ready, *shape)))  # (n, H, W, 3)
        self._file.close()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64, np.ndarray]:
        if index < len(self._pictures):
            return self._dataset.without_mask(index, self._pictures[index])
        return self._dataset[index]


def main() -> None:
    """Decode the data set that standard input names into standard output, until standard input ends."""
    with open(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)  # 别的话都不进图片之中，已有的也不留
        out.seek(0)
        out.truncate()
        dataset = pickle.load(sys.stdin.buffer)
        waiting = threading.Thread(target=os.read, args=(0, 1), daemon=True)  # 标准输入到头，它就结束
        waiting.start()
        for index in range(len(dataset)):
            if not waiting.is_alive():
                break
            out.write(dataset.picture(index).tobytes())


if __name__ == "__main__":
    main()
