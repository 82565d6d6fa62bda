"""The device of a run, and its arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceError(ValueError):
    """A device that is not there; the message is one line."""


def pick_device(name: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Of several processes on this machine each gets a GPU of its own.

    Raises
    ------
    DeviceError
        If there is no such device, or not one for each process.
    """
    if local_size > 1 and name != "cpu" and torch.cuda.is_available():
        if name not in ("auto", "cuda"):
            raise DeviceError(f"--device {name} is one GPU for {local_size} processes; give --device cuda, or cpu")
        if local_size > torch.cuda.device_count():
            raise DeviceError(
                f"{local_size} processes and {torch.cuda.device_count()} GPUs; give a smaller --nproc_per_node, "
                "or --device cpu"
            )
        name = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"a {device.type} device")
        return device
    except Exception as problem:  # 没有 CUDA、序号越界、名字不认识：各抛各的
        raise DeviceError(f"--device {name} cannot be used here; --device cpu can") from problem


def describe_device(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


PRECISIONS = ("float32", "tf32", "bf16")


def check_precision(precision: str, device: torch.device) -> None:
    """Raise DeviceError where the device has no such arithmetic."""
    if precision == "tf32" and device.type != "cuda":
        raise DeviceError(f"--precision tf32 needs a CUDA device, not {device.type}; leave it out")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32; PyTorch leaves it on for convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
