"""Reading pickles of arrays: every way numpy wrote them, and nothing else."""

import io
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from experiment.files.gaussians import (
    DamagedError,
    check_covariances,
    map_fitted,
    read_fitted,
    write_fitted,
)
from experiment.files.provenance import stored_state
from experiment.files.unpickle import Pickler
from system.errors import UserError

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
    content = dumped([mean, covariance], protocol)
    path = tmp_path / "train_x.pkl"
    path.write_bytes(as_numpy_1(content) if numpy == 1 else content)
    for read in (read_fitted, map_fitted):
        m, c = read(path, P, D)
        assert m.dtype == c.dtype == np.float32
        np.testing.assert_array_equal(m, mean.T)
        np.testing.assert_array_equal(c, covariance.transpose(2, 0, 1))
    with pytest.raises(UserError, match=r"no record of how it was made.*--save_path.*--refit"):
        stored_state(path, {})


def test_numpys_own_protocol_5_is_refused_by_name(tmp_path):
    """It asks for a function that numpy 1 and 2 keep in different places; nothing of this program's does."""
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(list(gaussians()), 5))
    with pytest.raises(UserError, match=r"x\.pkl.*asks for 'numpy\._core\.numeric\._frombuffer'"):
        read_fitted(path, P, D)
    assert not isinstance(refusal(path), DamagedError)


def refusal(path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_fitted(path, P, D)
    return caught.value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1)])
def test_axes_in_another_order(tmp_path, protocol, axes):
    """What is neither C- nor Fortran-ordered."""
    mean, covariance = gaussians()
    back = tuple(np.argsort(axes))
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([mean, np.ascontiguousarray(covariance.transpose(back)).transpose(axes)], protocol))
    for read in (read_fitted, map_fitted):
        np.testing.assert_array_equal(read(path, P, D)[1], covariance.transpose(2, 0, 1))


LARGE = 1200, 16  # 协方差 1.2 MB，均值 77 kB：一个映射，一个读入
LARGER = 70_000, 4  # 两个都超过 1 MB


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F", "written"])
@pytest.mark.parametrize(("positions", "dimensions"), [LARGE, LARGER])
def test_large_arrays(tmp_path, positions, dimensions, order, protocol):
    """Content that is passed over in the pickle and mapped afterwards."""
    rng, path = np.random.default_rng(0), tmp_path / "x.pkl"
    mean = rng.random((positions, dimensions), np.float32)
    covariance = rng.random((positions, dimensions, dimensions), np.float32)
    covariance += covariance.transpose(0, 2, 1) + np.eye(dimensions, dtype=np.float32)
    if order == "written":
        write_fitted(path, mean, covariance, {})
    else:
        path.write_bytes(dumped([np.asarray(a.T, order=order) for a in (mean, covariance)], protocol))
    for read in (read_fitted, map_fitted):
        m, c = read(path, positions, dimensions)
        np.testing.assert_array_equal(m, mean)
        np.testing.assert_array_equal(c, covariance)
        assert c[0].flags.c_contiguous
    assert order != "written" or not c.flags.owndata
    assert type(c) is np.ndarray and (
        protocol == 2 or c.flags.writeable is (order == "C")
    )  # C 序的不能原样作 (P, d, d)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:-20], content[:-1], content + b"."):
        path.write_bytes(broken)
        for read in (read_fitted, map_fitted):
            with pytest.raises(DamagedError, match=r"x\.pkl"):
                read(path, positions, dimensions)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(tmp_path):
    """200 MB: mapping reads next to nothing of it, reading holds it once."""
    positions, dimensions = 500, 320
    path, one = tmp_path / "x.pkl", np.eye(dimensions, dtype=np.float32)
    write_fitted(path, np.zeros((positions, dimensions), np.float32), np.stack([one] * positions), {})
    size = path.stat().st_size
    for read, most in (("map_fitted", 0.1), ("read_fitted", 1.75)):
        code = (
            "import sys; from pathlib import Path; from experiment.files import gaussians\n"
            "def peak():\n"
            "    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024\n"
            f"before = peak(); kept = gaussians.{read}(Path(sys.argv[1]), {positions}, {dimensions})\n"
            "print(peak() - before, float(kept[1][-1, -1, -1]))"
        )
        run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
        grown, value = run.stdout.split()
        assert float(value) == 1 and int(grown) < most * size, (read, int(grown) / size)


class Payload:
    """Runs code when Python's own unpickler reads it."""

    def __reduce__(self):
        return exec, ("import sys; sys.executed = True",)


def dumped(thing, protocol=4) -> bytes:
    """As numpy pickles arrays, from protocol 5 on as this program does."""
    written = io.BytesIO()
    (Pickler if protocol == 5 else pickle.Pickler)(written, protocol).dump(thing)
    return written.getvalue()


def objects() -> list[np.ndarray]:
    array = np.empty((D, P), object)
    array[:] = Payload()
    return [array, array]


LONG = struct.pack("<Q", 1 << 50)
NO_ARRAYS = "holds something else than two arrays"
HOSTILE = {
    "code": (dumped([Payload(), Payload()]), r"asks for 'builtins\.exec'\) and is left alone.*--save_path.*--refit"),
    "code in protocol 2": (dumped([Payload(), Payload()], 2), r"asks for '__builtin__\.exec'"),
    "code in objects": (dumped(objects()), r"asks for 'builtins\.exec'"),
    "objects": (dumped([np.array([[1, "x"]], object)] * 2), NO_ARRAYS),
    "another callable of numpy": (b"\x80\x04]cnumpy\nfromfile\n.", r"asks for 'numpy\.fromfile'"),
    "another module of numpy": (pickle.dumps(gaussians(), 5).replace(b"numeric", b"numerix"), r"asks for .*numerix"),
    "a class of this project": (b"\x80\x02cexperiment.store\nStore\n.", r"asks for 'experiment\.store\.Store'"),
    "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.ctr\x93.", "asks for 'numpy.ndarray.ctr'"),
    "a name with a line break": (b"\x80\x04\x8c\x05numpy\x8c\x02\n\n\x93.", r"asks for 'numpy\.\\n\\n'"),
    "a name of a megabyte": (b"\x80\x02cnumpy\n" + b"x" * 1_000_000 + b"\n.", "x{94}'"),
    "ndarray called": (b"\x80\x04cnumpy\nndarray\n)R.", NO_ARRAYS),
    "a persistent id": (b"\x80\x02]X\x01\0\0\0aQ.", NO_ARRAYS),
    "an extension code": (b"\x80\x02\x82\x01.", NO_ARRAYS),
    "an instance": (b"\x80\x02(cnumpy\ndtype\no.", NO_ARRAYS),
    "a new object": (b"\x80\x02cnumpy\ndtype\n)\x81.", NO_ARRAYS),
    "a dictionary": (b"\x80\x02}.", NO_ARRAYS),
    "a state for a list": (b"\x80\x02]Nb.", NO_ARRAYS),
    "attributes for a stand-in": (b"\x80\x02cnumpy\ndtype\nN(X\x01\0\0\0aNt\x86b.", NO_ARRAYS),
    "a length of a petabyte": (b"\x80\x04\x8e" + LONG + b".", "truncated"),
    "a bytearray of a petabyte": (b"\x80\x05\x96" + LONG + b".", "truncated"),
    "a text of a petabyte": (b"\x80\x04\x8d" + LONG + b".", NO_ARRAYS),
    "a frame of a petabyte": (b"\x80\x04\x95" + LONG + b".", "truncated"),
    "a number of a gigabyte": (b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b".", NO_ARRAYS),
    "a memo of 32 GB": (b"\x80\x02Nr\xff\xff\xff\xff.", NO_ARRAYS),
    "a million marks": (b"\x80\x02" + b"(" * 1_000_000 + b".", NO_ARRAYS),
    "a deep tuple": (b"\x80\x02N" + b"\x85" * 100_000 + b".", NO_ARRAYS),
    "a tuple of tuples": (b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b".", NO_ARRAYS),
    "a list in itself": (b"\x80\x02]q\x00h\x00ah\x00a.", NO_ARRAYS),
    "protocol 6": (b"\x80\x06].", NO_ARRAYS),
    "nothing": (b"", "truncated"),
    "a text file": (b"hello", NO_ARRAYS),
    "one array": (dumped([gaussians()[0]]), NO_ARRAYS),
    "three arrays": (dumped([*gaussians(), gaussians()[0]]), NO_ARRAYS),
    "numbers": (dumped([1, 2]), NO_ARRAYS),
    "integers": (dumped([a.astype(np.int32) for a in gaussians()]), NO_ARRAYS),
    "half precision": (dumped([a.astype(np.float16) for a in gaussians()]), NO_ARRAYS),
    "complex numbers": (dumped([a.astype(complex) for a in gaussians()]), NO_ARRAYS),
    "a structured type": (dumped([np.zeros((D, P), "f4,f4")] * 2), NO_ARRAYS),
    "other shapes": (dumped([gaussians()[1], gaussians()[0]]), r"arrays of shape \(3, 3, 12\) and \(3, 12\), not"),
    "more after the end": (dumped(list(gaussians())) + b"x", "after its end"),
    "cut off": (dumped(list(gaussians()))[:-30], "truncated"),
    "a shape larger than its bytes": (
        dumped(list(gaussians())).replace(b"K\x03K\x0c\x86", b"K\x03K\xff\x86"), NO_ARRAYS
    ),
    "text that is no bytes": (dumped(list(gaussians()), 2).replace(b"\xc2", b"\xc4"), NO_ARRAYS),
    "text that is not UTF-8": (dumped(list(gaussians()), 2).replace(b"\xc2", b"\xff"), NO_ARRAYS),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_and_left_alone(tmp_path, name):
    content, reason = HOSTILE[name]
    path = tmp_path / "train_x.pkl"
    path.write_bytes(content)
    for read in (read_fitted, map_fitted):
        with pytest.raises(UserError, match=reason) as caught:
            read(path, P, D)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert not hasattr(sys, "executed")


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
        read_fitted(path, P, D)
    if "mean" not in reason:  # 映射时只检查用到的那些位置
        with pytest.raises(DamagedError, match=reason):
            check_covariances(path, map_fitted(path, P, D)[1])


def test_doubles_beyond_single_precision(tmp_path):
    mean, covariance = gaussians(np.float64)
    path = tmp_path / "x.pkl"
    for array, reason in ((covariance, "covariance at position 2"), (mean, "mean")):
        array[0, ..., 2] = 1e60
        path.write_bytes(dumped([mean, covariance]))
        with pytest.raises(DamagedError, match=f"{reason}.*not finite"):
            read_fitted(path, P, D)


def test_symmetry_is_asked_for_to_a_hundred_thousandth(tmp_path):
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((2, 300, 300)).astype(np.float32)  # 大于一条：跨块比较
    covariance = factor @ factor.transpose(0, 2, 1)
    covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
    covariance[1, 280, 3] += 0.9e-5 * covariance[1].max()
    check_covariances(tmp_path, covariance)
    covariance[1, 280, 3] += 0.3e-5 * covariance[1].max()
    with pytest.raises(DamagedError, match="position 41 is not symmetric"):
        check_covariances(tmp_path, covariance, 40)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_shape_of_terabytes_reserves_none(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    content = dumped([np.zeros((3, 4), np.float32)] * 2, protocol)
    path.write_bytes(content.replace(b"K\x03K\x04\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"))
    with pytest.raises(DamagedError, match=NO_ARRAYS):
        read_fitted(path, (1 << 31) - 1, (1 << 31) - 1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (70, 20)])
def test_covariances_are_aligned_for_equal_bits(tmp_path, shape):
    positions, dimensions = shape
    one = np.eye(dimensions, dtype=np.float32)
    write_fitted(path := tmp_path / "x.pkl", np.zeros(shape, np.float32), np.stack([one] * positions), {})
    held = [read_fitted(path, *shape)[1] for _ in range(20)]
    assert all(a.ctypes.data % 64 == 0 and a.flags.c_contiguous and a.flags.writeable for a in held)


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
