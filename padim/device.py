"""The device, its memory and its arithmetic.

设备、内存与算术精度。
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from system.errors import UserError
from system.resources import aligned

# 按名取用：torch 的类型标注里没有它们。前两个管 GPU
_SWITCHES = attrgetter("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")


def pick_device(name: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Of several processes on this machine each gets a GPU of its own.

    Raises
    ------
    UserError
        If there is no such device, this PyTorch cannot compute on it, or there is not one for each process.
    """
    if local_size > 1 and name != "cpu" and torch.cuda.is_available():  # 多进程：每个进程一块 GPU
        if name not in ("auto", "cuda"):
            raise UserError(f"--device {name} is one GPU for {local_size} processes; give --device cuda, or cpu")
        if local_size > torch.cuda.device_count():
            raise UserError(
                f"{local_size} processes and {torch.cuda.device_count()} GPUs; give a smaller --nproc_per_node, "
                "or --device cpu"
            )
        name = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 关于旧 GPU 的长篇警告：能不能用，下面一试便知
        try:
            device = torch.empty(0, device=name).device  # 真去申请，才知道能否使用；cuda 也得到序号
            if device.type not in ("cpu", "cuda"):
                raise ValueError(f"a {device.type} device")
            _convolve(device, torch.float32)
            return device
        except Exception as problem:  # 没有 CUDA、序号越界、名字不认识、GPU 太旧：各抛各的
            reason = _first_line(problem)
            other = ", or a PyTorch that is built for this GPU" if "kernel image" in reason else ""
            raise UserError(f"--device {name} cannot be used here ({reason}); --device cpu can{other}") from problem


def _convolve(device: torch.device, dtype: torch.dtype) -> None:
    """A small convolution: what the device, or this PyTorch on it, cannot do fails here and not after an hour."""
    images, kernel = torch.ones((1, 8, 4, 4), dtype=dtype, device=device), torch.ones((8, 8, 3, 3), dtype=dtype)
    conv2d(images, kernel.to(device)).sum().item()  # item：等它真的算完


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:160]


def describe_device(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uninitialised float32; in main memory that of `system.resources.aligned`."""
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    return torch.from_numpy(aligned(shape))


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """A batch on the device; to a GPU it goes from pinned memory, and nobody waits for it."""
    if device.type == "cuda" and images.device.type == "cpu":
        images = images.pin_memory()  # 从可换页的内存拷贝要等 GPU 算完前一批；锁页的缓冲由 torch 留着复用
    return images.to(device, non_blocking=True)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise UserError where the device has no such arithmetic."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32 needs a CUDA device, not {device.type}; leave it out")
    if precision == "bf16":
        try:
            _convolve(device, torch.bfloat16)
        except RuntimeError as problem:
            raise UserError(f"--precision bf16 cannot be used here ({_first_line(problem)}); leave it out") from problem


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products; forbidden, they are IEEE float32.

    PyTorch leaves TF32 on for convolutions, and its global switches allow it (and bfloat16 on CPUs) for products,
    too. Whatever they say, they say the same again afterwards.
    """
    # TF32 的尾数只有 10 位，而 PyTorch 的卷积默认用它：不关，结果就不再是 float32 的
    with _new_switches(allowed) if hasattr(torch.backends, "fp32_precision") else _old_switches(allowed):
        yield


@contextmanager
def _new_switches(allowed: bool) -> Iterator[None]:
    """``fp32_precision`` of each kind of operation (PyTorch 2.9 on): beside it the older switches cannot be read."""
    switches = _SWITCHES(torch.backends)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            on_gpu = switch in switches[:2]
            switch.fp32_precision = "tf32" if allowed and on_gpu else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = "none"  # 继承上一级：读出的值相同，就让它仍随上一级而变
            if switch.fp32_precision != value:
                switch.fp32_precision = value


@contextmanager
def _old_switches(allowed: bool) -> Iterator[None]:
    # PyTorch 2.9 之前
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")  # 连同 cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = allowed
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
