import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from experiment.files.gaussians import AbortedError, Progress
from experiment.saving import write_model
from padim import device
from padim.device import check_precision, describe_device, pick_device
from padim.model import PaDiM
from system.errors import UserError, explain, is_out_of_memory
from system.files import Staged

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
NEW_SWITCHES = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="this PyTorch has the older switches only"
)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def maps(model: PaDiM) -> torch.Tensor:
    model.fit(images(12).split(5))
    return torch.cat([torch.from_numpy(s.maps) for s in model.score([images(3)])])


@pytest.mark.lowest
def test_devices():
    assert pick_device("cpu").type == "cpu" and "threads" in describe_device(pick_device("cpu"))
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "nonsense", "meta"):
        with pytest.raises(UserError, match=f"--device {name}"):
            pick_device(name)
    with pytest.raises(UserError, match="--precision tf32"):
        check_precision("tf32", torch.device("cpu"))


class Refused(TorchDispatchMode):
    """Convolutions of more than ``most`` images fail, as on a GPU that is too old or whose memory is short."""

    def __init__(self, message: str, most: int = 0):
        super().__init__()
        self.message, self.most = message, most

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default) and len(args[0]) > self.most:
            raise RuntimeError(self.message)
        return func(*args, **(kwargs or {}))


def test_a_device_that_this_torch_cannot_compute_on():
    reason = "CUDA error: no kernel image is available for execution on the device"
    wanted = f"--device cpu cannot be used here ({reason}); --device cpu can, or a PyTorch that is built for this GPU"
    with Refused(f"{reason}\nCUDA kernel errors might be reported later.\n"):
        with pytest.raises(UserError, match=f"^{re.escape(wanted)}$"):
            pick_device("cpu")
        with pytest.raises(
            UserError, match=r"^--precision bf16 cannot be used here \(CUDA error: no kernel.*leave it out$"
        ):
            check_precision("bf16", torch.device("cpu"))


# 照抄自 torch 2.14（CUDA 13、cuDNN 9）与更早的版本
SHORT = [
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
]
OTHER = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
]


@pytest.mark.parametrize("message", SHORT)
def test_short_memory_in_any_words_halves_the_batch_and_says_so(message):
    """Once for each halving, and not again in the next batch."""
    assert "out of memory" in (explain(RuntimeError(message)) or "")
    model = PaDiM("resnet18", "random", dimensions=5)
    wanted = torch.cat([features[0] for features in model.features([images(6)])])
    with Refused(message, 1), pytest.warns(UserWarning, match="memory is short") as said:
        parts = [features[0] for features in model.features([images(6), images(2)])]
    assert [len(part) for part in parts] == [1] * 8
    assert [str(one.message).split()[-1] for one in said] == ["3", "1"]
    assert torch.allclose(torch.cat(parts)[:6], wanted, atol=1e-5)
    with Refused(message, 0), pytest.raises(RuntimeError, match=re.escape(message)):
        next(model.features([images(1)]))


@pytest.mark.parametrize("message", OTHER)
def test_other_failures_are_not_taken_for_it(message):
    assert not is_out_of_memory(RuntimeError(message)) and explain(RuntimeError(message)) is None
    with Refused(message, 1), warnings.catch_warnings(), pytest.raises(RuntimeError, match=re.escape(message)):
        warnings.simplefilter("error")
        next(PaDiM("resnet18", "random", dimensions=5).features([images(2)]))


# 每个公开的开关单独设，再旧新各一、新旧各一
SWITCHES = [
    "",
    "b.fp32_precision = 'tf32'",
    "b.fp32_precision = 'ieee'",
    "b.cudnn.fp32_precision = 'tf32'",
    "b.cudnn.conv.fp32_precision = 'tf32'",
    "b.cuda.matmul.fp32_precision = 'tf32'",
    "b.mkldnn.fp32_precision = 'bf16'",
    "b.mkldnn.matmul.fp32_precision = 'bf16'",
    "b.mkldnn.conv.fp32_precision = 'bf16'",
    "b.cudnn.allow_tf32 = False",
    "b.cuda.matmul.allow_tf32 = True",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high'); b.fp32_precision = 'ieee'",
    "b.fp32_precision = 'tf32'; b.cuda.matmul.allow_tf32 = False",
    "b.cudnn.allow_tf32 = True; b.cudnn.conv.fp32_precision = 'ieee'",
]
PROGRAM = """
import os, sys
import torch
from padim.device import tf32
b = torch.backends
torch.set_num_threads(1)

def read(what):
    try:
        return eval(what)
    except RuntimeError as problem:
        return "cannot be read"

def state():
    places = ("b", "b.cuda.matmul", "b.cudnn", "b.cudnn.conv", "b.cudnn.rnn", "b.mkldnn", "b.mkldnn.matmul",
              "b.mkldnn.conv")
    old = ("b.cudnn.allow_tf32", "b.cuda.matmul.allow_tf32", "torch.get_float32_matmul_precision()")
    return [read(f"{place}.fp32_precision") for place in places] + [read(what) for what in old]

x, kernel = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(0)), torch.ones(64, 64, 3, 3) / 7
compute = lambda: (x[0, 0] @ x[1, 0], torch.nn.functional.conv2d(x, kernel))

def check(switch):
    with tf32(False):
        wanted = compute()
    for allowed in (False, True):
        exec(switch)
        before = state()
        with tf32(allowed):
            inside = [b.cuda.matmul.fp32_precision, b.cudnn.conv.fp32_precision]
            assert inside == ["tf32" if allowed else "ieee"] * 2, inside
            assert [b.mkldnn.matmul.fp32_precision, b.mkldnn.conv.fp32_precision] == ["ieee"] * 2
            assert all(map(torch.equal, compute(), wanted))
        assert state() == before, (before, state())

for switch in SWITCHES:  # each in a process of its own, which has imported torch already
    child = os.fork()
    if child == 0:
        try:
            check(switch)
        except BaseException as problem:
            print(f"{switch!r}: {type(problem).__name__} {problem}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.lowest
@NEW_SWITCHES
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_float32_is_ieee_whatever_the_global_switches_say():
    program = f"SWITCHES = {SWITCHES!r}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.lowest
@NEW_SWITCHES
def test_what_inherits_inherits_again():
    """A switch above that is changed afterwards still reaches those below it."""
    program = """
import torch
from padim.device import tf32
torch.backends.fp32_precision = "tf32"
with tf32(False):
    pass
torch.backends.fp32_precision = "ieee"
assert torch.backends.cuda.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == "ieee"
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.lowest
def test_the_older_switches():
    def state() -> tuple:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision()

    before = state()
    for allowed in (False, True):
        with device._old_switches(allowed):
            assert state()[:2] == (allowed, allowed)
        assert state() == before


@NEW_SWITCHES
def test_the_projection_is_ieee_whatever_the_global_switches_say():
    def state() -> tuple:
        return PaDiM("resnet18", "random", dimensions=5, reduction="pca").fit([images(4)]).state()

    wanted, switch = state(), torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        assert all(map(torch.equal, state(), wanted))
    finally:
        switch.fp32_precision = before


@pytest.mark.lowest
def test_no_mode_leaks_out_of_scoring():
    model = PaDiM("resnet18", "random", dimensions=5).fit([images(4)])
    for _ in model.score([images(2)]):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.lowest
def test_bf16_changes_the_forward_pass_only():
    exact = PaDiM("resnet18", "random", dimensions=20)
    rough = PaDiM("resnet18", "random", dimensions=20, precision="bf16")
    wanted, got = maps(exact), maps(rough)
    assert {t.dtype for t in (*rough.state(), got)} == {torch.float32}
    deviation = ((got - wanted).abs() / wanted).max()
    assert 1e-6 < deviation < 0.1


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=cuda)])
def test_scoring_waits_for_the_disk_only_where_the_models_own_memory_is_written(name, tmp_path):
    model = PaDiM("resnet18", "random", dimensions=5, device=name).fit([images(4)])
    progress = Progress()
    progress.stop.set()  # 一个字节也不写
    with pytest.raises(AbortedError), Staged() as staged:
        write_model(model, tmp_path / "train_x.pkl", progress, staged, {})
    assert progress.dumped.is_set() == (name == "cuda")


@cuda
def test_gpu_parity():
    wanted = maps(PaDiM("resnet18", "random"))
    got = maps(PaDiM("resnet18", "random", device="cuda"))
    assert ((got - wanted).abs() / wanted).max() < 1e-4


@cuda
def test_short_gpu_memory_halves_the_batch():
    model = PaDiM("wide_resnet50_2", "random", dimensions=20, device="cuda")
    wanted = maps(model)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 60e6) / total)
    try:
        with pytest.warns(UserWarning, match="batches of"):
            got = maps(model)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ((got - wanted).abs() / wanted).max() < 1e-4
