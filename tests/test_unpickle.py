"""Reading pickles of arrays: every way numpy wrote them, and nothing else."""

import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from padim.features import check_covariances
from padim.mapped import check, map_features
from padim.store import DamagedError, StoreError, read_features, stored_features
from padim.unpickle import UnpickleError, locate

P, D = 12, 3


def gaussians(dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    """As the thesis orders them: mean (d, P), covariance (d, d, P), C-contiguous."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((P, D, D))
    covariance = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(D)
    return rng.standard_normal((D, P)).astype(dtype), np.ascontiguousarray(covariance.transpose(1, 2, 0), dtype)


def as_numpy_1(content: bytes) -> bytes:
    """The same pickle as numpy 1 writes it: ``numpy.core`` for ``numpy._core``."""
    whole = len(content)
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        content = content.replace(b"c" + new + b"\n", b"c" + old + b"\n")
        content = content.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
    assert b"_core" not in content
    if content[2:3] == b"\x95":  # 协议 4 起的分帧长度
        (frame,) = struct.unpack("<Q", content[3:11])
        content = content[:3] + struct.pack("<Q", frame - (whole - len(content))) + content[11:]
    return content


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("numpy", [1, 2])
def test_every_way_numpy_writes_two_arrays(tmp_path, numpy, protocol, order, dtype):
    mean, covariance = (np.asarray(a, order=order).astype(dtype) for a in gaussians())
    content = pickle.dumps([mean, covariance], protocol=protocol)
    path = tmp_path / "train_x.pkl"
    path.write_bytes(as_numpy_1(content) if numpy == 1 else content)
    for read in (read_features, map_features):
        m, c = read(path, P, D)
        assert m.dtype == c.dtype == np.float32
        np.testing.assert_array_equal(m, mean.T)
        np.testing.assert_array_equal(c, covariance.transpose(2, 0, 1))
    with pytest.raises(StoreError, match=r"no record of how it was made.*--save_path.*--refit"):
        stored_features(path, {})


def test_text_longer_than_a_read_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("padim.features._SLICE", 7)
    mean, covariance = gaussians()
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps((mean, covariance), protocol=2))
    np.testing.assert_array_equal(read_features(path, P, D)[1], covariance.transpose(2, 0, 1))


class Payload:
    """Runs code when Python's own unpickler reads it."""

    def __reduce__(self):
        return exec, ("import padim; padim.executed = True",)


def dumped(thing, protocol=4) -> bytes:
    return pickle.dumps(thing, protocol=protocol)


def objects() -> list[np.ndarray]:
    array = np.empty((D, P), object)
    array[:] = Payload()
    return [array, array]


LONG = struct.pack("<Q", 1 << 50)
HOSTILE = {
    "code": (dumped([Payload(), Payload()]), r"builtins\.exec"),
    "code in protocol 2": (dumped([Payload(), Payload()], 2), r"builtin"),
    "code in objects": (dumped(objects()), "other numbers"),
    "another callable of numpy": (b"\x80\x04]cnumpy\nfromfile\n.", r"numpy\.fromfile"),
    "a class of this project": (b"\x80\x02cpadim.store\nStore\n.", r"padim\.store\.Store"),
    "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.ctr\x93.", "ndarray"),
    "ndarray called": (b"\x80\x04cnumpy\nndarray\n)R.", "something else"),
    "a persistent id": (b"\x80\x02]X\x01\0\0\0aQ.", "instruction"),
    "an extension code": (b"\x80\x02\x82\x01.", "instruction"),
    "an instance": (b"\x80\x02(cnumpy\ndtype\no.", "instruction"),
    "a new object": (b"\x80\x02cnumpy\ndtype\n)\x81.", "instruction"),
    "a dictionary": (b"\x80\x02}.", "instruction"),
    "a state for a list": (b"\x80\x02]Nb.", "something else"),
    "a length of a petabyte": (b"\x80\x04\x8e" + LONG + b".", "truncated"),
    "a bytearray of a petabyte": (b"\x80\x05\x96" + LONG + b".", "truncated"),
    "a text of a petabyte": (b"\x80\x04\x8d" + LONG + b".", "instruction"),
    "a frame of a petabyte": (b"\x80\x04\x95" + LONG + b".", "truncated"),
    "a number of a gigabyte": (b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b".", "instruction"),
    "a memo of 32 GB": (b"\x80\x02Nr\xff\xff\xff\xff.", "two arrays"),
    "a million marks": (b"\x80\x02" + b"(" * 1_000_000 + b".", "more instructions"),
    "a deep tuple": (b"\x80\x02N" + b"\x85" * 100_000 + b".", "more instructions"),
    "a tuple of tuples": (b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b".", "two arrays"),
    "a list in itself": (b"\x80\x02]q\x00h\x00ah\x00a.", "two arrays"),
    "no protocol": (b"(lp0\n.", "protocol"),
    "protocol 6": (b"\x80\x06].", "protocol"),
    "nothing": (b"", "truncated"),
    "a text file": (b"hello", "protocol"),
    "one array": (dumped([gaussians()[0]]), "two arrays"),
    "three arrays": (dumped([*gaussians(), gaussians()[0]]), "two arrays"),
    "numbers": (dumped([1, 2]), "two arrays"),
    "integers": (dumped([a.astype(np.int32) for a in gaussians()]), "other numbers"),
    "half precision": (dumped([a.astype(np.float16) for a in gaussians()]), "other numbers"),
    "complex numbers": (dumped([a.astype(complex) for a in gaussians()]), "other numbers"),
    "a structured type": (dumped([np.zeros((D, P), "f4,f4")] * 2), "something else|instruction|other numbers"),
    "other shapes": (dumped([gaussians()[1], gaussians()[0]]), r"holds arrays of shape"),
    "more after the end": (dumped(list(gaussians())) + b"x", "after its end"),
    "cut off": (dumped(list(gaussians()))[:-30], "truncated|something else"),
    "a shape larger than its bytes": (
        dumped(list(gaussians())).replace(b"K\x03K\x0c\x86", b"K\x03K\xff\x86"), "another size"
    ),
    "text that is no bytes": (dumped(list(gaussians()), 2).replace(b"\xc2", b"\xc4"), "stands for no bytes"),
    "text that is not UTF-8": (dumped(list(gaussians()), 2).replace(b"\xc2", b"\xff"), "stands for no bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_and_left_alone(tmp_path, name):
    content, reason = HOSTILE[name]
    path = tmp_path / "train_x.pkl"
    path.write_bytes(content)
    for read in (read_features, map_features):
        with pytest.raises(StoreError, match=reason) as caught:
            read(path, P, D)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert not hasattr(sys.modules["padim"], "executed")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m, c: m.__setitem__((1, 1), np.nan), "mean is not finite"),
        (lambda m, c: m.__setitem__((1, 1), -np.inf), "mean is not finite"),
        (lambda m, c: c.__setitem__((0, 1, 7), np.nan), "position 7 is not finite"),
        (lambda m, c: c.__setitem__((2, 2, 7), np.inf), "position 7 is not finite"),
        (lambda m, c: c.__setitem__((1, 2, 5), c[1, 2, 5] + 1e-4 * c[..., 5].max()), "position 5 is not symmetric"),
        (lambda m, c: c.__setitem__((1, 1, 11), 0), "position 11 has a diagonal that is not positive"),
        (lambda m, c: c.__setitem__((slice(None), slice(None), 3), 0), "position 3 has a diagonal"),
    ],
)
def test_numbers_that_are_no_gaussians(tmp_path, spoil, reason):
    mean, covariance = gaussians()
    spoil(mean, covariance)
    path = tmp_path / "x.pkl"
    path.write_bytes(dumped([mean, np.asfortranarray(covariance)], 5))
    with pytest.raises(DamagedError, match=reason):
        read_features(path, P, D)
    if "mean" not in reason:  # 映射时只检查用到的那些位置
        with pytest.raises(DamagedError, match=reason):
            check(path, map_features(path, P, D)[1])


def test_doubles_beyond_single_precision(tmp_path):
    mean, covariance = gaussians(np.float64)
    path = tmp_path / "x.pkl"
    for array, reason in ((covariance, "covariance at position 2"), (mean, "mean")):
        array[0, ..., 2] = 1e60
        path.write_bytes(dumped([mean, covariance]))
        with pytest.raises(DamagedError, match=f"{reason}.*not finite"):
            read_features(path, P, D)


def test_symmetry_is_asked_for_to_a_hundred_thousandth():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((2, 300, 300)).astype(np.float32)  # 大于一条：跨块比较
    covariance = factor @ factor.transpose(0, 2, 1)
    covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
    covariance[1, 280, 3] += 0.9e-5 * covariance[1].max()
    check_covariances(covariance)
    covariance[1, 280, 3] += 0.3e-5 * covariance[1].max()
    with pytest.raises(UnpickleError, match="position 41 is not symmetric"):
        check_covariances(covariance, 40)


def test_reading_allocates_by_the_files_size(tmp_path):
    """A file of a few hundred bytes that says it holds terabytes."""
    path = tmp_path / "x.pkl"
    for protocol in (2, 4, 5):
        content = dumped([np.zeros((3, 4), np.float32)] * 2, protocol)
        content = content.replace(b"K\x03K\x04\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")
        path.write_bytes(content)
        with pytest.raises(UnpickleError, match="another size"):
            locate(path)


FUZZ = ROOT / "tests" / "fuzz.py"


@pytest.mark.parametrize("what", ["pickles", "pictures"])
def test_mutated_files(what):
    """In a child process with a memory limit: its own error, or what is in the file, and nothing else."""
    run = subprocess.run(
        [sys.executable, str(FUZZ), what, "--seed", "1", "--files", "10000" if what == "pickles" else "1500"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "failed otherwise: 0" in run.stdout and "executed: 0" in run.stdout
