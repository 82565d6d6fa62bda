"""What an operation that fails midway leaves: the exact result after a retry, or an error; never a wrong number."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from padim import chunks
from padim.gaussian import GaussianStream
from padim.mahalanobis import Gaussians
from system.errors import UserError

P, D = 12, 6


class FailAt(TorchDispatchMode):
    """Raises before the k-th operation, once or from there on."""

    def __init__(self, k: int, error: type[BaseException] = torch.OutOfMemoryError):
        super().__init__()
        self.left, self.error = k, error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.left -= 1
        if self.left == 0:
            raise self.error("injected")
        return func(*args, **(kwargs or {}))


class CublasError(RuntimeError):
    """Short GPU memory in a library's words."""

    def __init__(self, _: str):
        super().__init__("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Chunks of positions one after the other, halved when memory is short."""
    monkeypatch.setattr(chunks, "_in_threads", lambda work, positions, _: chunks._in_turn(work, positions))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.fixture
def blocks() -> tuple[torch.Tensor, ...]:
    x = torch.randn(P, 40, D, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, D) + 3
    return x.split([25, 15], dim=1)


def fitted(blocks) -> GaussianStream:
    stream = GaussianStream(P, D, torch.device("cpu"))
    for block in blocks:
        stream.update(block)
    return stream


def same(found, wanted) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def counted(work) -> int:
    """The number of operations of an undisturbed call."""
    mode = FailAt(-1)
    with mode:
        work()
    return -1 - mode.left


@pytest.mark.filterwarnings("ignore:memory is short")
@pytest.mark.parametrize("step", ["update", "finish", "merge"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, CublasError, KeyboardInterrupt])
def test_nothing_is_counted_twice(blocks, step, error):
    wanted = fitted(blocks).finish()

    def prepared() -> tuple[GaussianStream, object]:
        stream = fitted(blocks[:1] if step == "update" else blocks)
        work = {
            "update": lambda: stream.update(blocks[1]),
            "finish": stream.finish,
            "merge": lambda: stream.merge(lambda tensor: tensor),
        }[step]
        return stream, work

    total = counted(prepared()[1])
    assert total > 3
    whole = 0
    for k in range(1, total + 1):
        stream, work = prepared()
        result = None
        try:
            with FailAt(k, error):
                result = work()
        except (MemoryError, error):
            # 失败了的：或者什么也没有变，再来一次得到准确的结果；或者不可再用，并且说明
            try:
                result = work()
            except ValueError as problem:
                assert "unusable" in str(problem)
                with pytest.raises(ValueError, match="unusable"):
                    stream.finish()
                continue
        whole += 1
        same(result if step == "finish" else stream.finish(), wanted)
    # 测试本身不空转：显存不足的一步重来了，其余的都说了不可用
    assert (whole > 0) == (error is not KeyboardInterrupt and step != "merge")


@pytest.mark.filterwarnings("ignore:memory is short")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_an_interrupted_factorisation_loses_no_covariance(blocks, error):
    mean, covariance = fitted(blocks).finish()
    wanted = Gaussians(mean, covariance.clone())
    distances = wanted.distances(blocks[0])
    total = counted(lambda: Gaussians(mean, covariance.clone()).distances(blocks[0]))
    for k in range(1, total + 1):
        for then in ("covariance", "distances"):
            model = Gaussians(mean, covariance.clone())
            try:
                with FailAt(k, error):
                    model.distances(blocks[0])
            except error:
                pass
            if then == "distances":
                assert torch.equal(model.distances(blocks[0]), distances)
            assert torch.equal(model.covariance(), covariance)
            assert torch.equal(model.distances(blocks[0]), distances)


def test_an_interrupted_way_back(blocks):
    mean, covariance = fitted(blocks).finish()
    model = Gaussians(mean, covariance.clone())
    distances = model.distances(blocks[0])
    total = counted(model.covariance)
    for k in range(1, total + 1):
        model.distances(blocks[0])
        with pytest.raises(KeyboardInterrupt), FailAt(k, KeyboardInterrupt):
            model.covariance()
        if k % 2:
            assert torch.equal(model.distances(blocks[0]), distances)
        assert torch.equal(model.covariance(), covariance)


def test_threads_that_fail_leave_the_covariance(blocks, monkeypatch):
    """The CPU's path: several threads, one of which finds no factor."""
    monkeypatch.undo()
    monkeypatch.setattr(chunks, "_CHUNK", D * D * 2)
    mean, covariance = fitted(blocks).finish()
    covariance[7, 2, 2] = -1
    before = covariance.clone()
    model = Gaussians(mean, covariance)
    for _ in range(2):
        with pytest.raises(UserError, match="position 7 "):
            model.distances(blocks[0])
        assert threading.active_count() < 20
    assert torch.equal(model.covariance(), before)
