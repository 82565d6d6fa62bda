"""A file written past the page cache is the same file, whatever the sizes and whatever the system allows."""

import os
import pickle

import pytest

from system import direct
from system.direct import Writer

SIZES = [0, 1, 4095, 4096, 4097, (1 << 24) - 1, 1 << 24, (1 << 24) + 4097, (1 << 25) + 5]


def written(path, *parts) -> bytes:
    with Writer(path, lambda: None) as file:
        for part in parts:
            assert file.write(part) == len(memoryview(part))
        file.finish()
        file.sync()
    return path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_any_size(tmp_path, size):
    content = os.urandom(size)
    assert written(tmp_path / "x", b"head", content, b"") == b"head" + content


def test_where_direct_writing_is_refused_while_it_goes_on(tmp_path, monkeypatch):
    """As some file systems do: the rest goes through the cache, and nothing is lost."""
    if not direct._DIRECT:
        pytest.skip("there is no O_DIRECT here")
    real, refused = os.write, []

    def write(file, data):
        if not refused:
            refused.append(file)
            raise OSError(direct.errno.EINVAL, "Invalid argument")
        return real(file, data[: len(data) // 3 + 1])  # 也会只写一部分

    monkeypatch.setattr(os, "write", write)
    content = os.urandom((1 << 24) + 12345)
    assert written(tmp_path / "x", content) == content and refused


def test_it_stops_when_told(tmp_path):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError), Writer(tmp_path / "x", stop) as file:
        pickle.dump([bytes(1 << 25)], file, protocol=5)
