"""Batches: in order, decoded ahead by threads, as a DataLoader gives them."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.images import DataError
from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from datasets.pictures import NewPictures
from datasets.preprocessing import Preprocessing
from datasets.read_ahead import read_ahead


class Counting:
    """Items are their numbers; who read which is kept."""

    def __init__(self, length: int, seconds: float = 0):
        self.length, self.seconds, self.readers = length, seconds, {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        time.sleep(self.seconds)
        self.readers[index] = threading.current_thread()
        return index


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("length", "size"), [(0, 4), (1, 4), (8, 4), (9, 4), (100, 7)])
def test_items_in_order(workers, length, size):
    lists = list(read_ahead(Counting(length), size, workers))
    assert [len(items) for items in lists] == [size] * (length // size) + [length % size] * (length % size > 0)
    assert [i for items in lists for i in items] == list(range(length))


def test_without_workers_the_caller_decodes_no_more_than_it_takes():
    data = Counting(10)
    assert next(read_ahead(data, 2, 0)) == [0, 1]
    assert set(data.readers) == {0, 1} and set(data.readers.values()) == {threading.current_thread()}


def test_three_batches_ahead_and_no_more():
    data = Counting(100)
    ahead = read_ahead(data, 4, 2)
    assert next(ahead) == [0, 1, 2, 3]
    deadline = time.monotonic() + 10
    while len(data.readers) < 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert set(data.readers) == set(range(16))  # 已交出的一批，与之后的三批


def test_the_caller_helps_from_the_back():
    data = Counting(8, seconds=0.05)
    assert next(read_ahead(data, 8, 1)) == list(range(8))
    own = {i for i, reader in data.readers.items() if reader is threading.current_thread()}
    assert own and own == set(range(8 - len(own), 8))


def test_threads_end_with_the_batches_that_nobody_wants(sample):
    before = set(threading.enumerate())
    ahead = batches(MVTecDataset(sample, "linen", "train"), 2, 2)
    next(ahead)
    ahead.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_keep_the_order(sample, workers):
    dataset = MVTecDataset(sample, "linen", "test")
    loaded = list(batches(dataset, 4, workers))
    assert [len(b[0]) for b in loaded] == [4, 4, 1]
    for i, item in enumerate(dataset):
        for tensor, value in zip(loaded[i // 4], item, strict=True):
            np.testing.assert_array_equal(tensor[i % 4].numpy(), value)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_data_loader_takes_the_data_sets_as_they_are(sample, processes):
    """Values, types and shapes are those of `batches`."""
    dataset = MVTecDataset(sample, "linen", "test")
    new = NewPictures([*dataset.files[:2], sample / "absent.png"], Preprocessing(), (224, 224))
    for data, dtypes in (
        (dataset, (torch.float32, torch.int64, torch.uint8)),
        (new, (torch.uint8, torch.int64, torch.bool, torch.int64)),
    ):
        theirs = DataLoader(data, 4, num_workers=processes)
        for batch, wanted in zip(batches(data, 4, 1), theirs, strict=True):
            assert tuple(t.dtype for t in batch) == tuple(t.dtype for t in wanted) == dtypes
            assert all(torch.equal(a, b) for a, b in zip(batch, wanted, strict=True))
    assert list(new.problems) == [2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_ends_the_batches_as_it_was_raised(tmp_path, workers):
    good = tmp_path / "widget/train/good"
    good.mkdir(parents=True)
    Image.new("L", (40, 30), 128).save(good / "a.png")
    (good / "b.JPG").write_text("?")
    dataset = MVTecDataset(tmp_path, "widget", "train")
    with pytest.raises(DataError, match=r"b\.JPG"):
        list(batches(dataset, 1, workers))
