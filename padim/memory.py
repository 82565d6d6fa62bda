"""What a class will need, and what is free: an error before the start, not a kill an hour later."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from padim.metrics import SORTED
from padim.model import BLOCK, FORWARD, POOLED, PaDiM

_BATCHES_AHEAD = 4  # 解码线程领先的批数，加上正在用的一批
_FORWARD = 2.2  # 前向时进程多占的内存，是同时存活的激活的倍数（实测：ResNet 2.0 至 2.2，EfficientNet-B5 1.6）
_EVALUATION = 48  # 排序评估时，每个像素占用的字节数


class TooLargeError(ValueError):
    """A class that will not fit; the message is one line with the remedy."""


@dataclass(frozen=True)
class Estimate:
    """Bytes a class needs beyond what the process holds already.

    Attributes
    ----------
    device : int
        On the model's device: covariances, a block of embeddings, a batch's activations.
    host : int
        In main memory; includes ``device`` where the device is the CPU.
    """

    device: int
    host: int


def estimate(
    model: PaDiM, batch_size: int, n_train: int, n_test: int, dimensions: int | None = None, evaluated: bool = True
) -> Estimate:
    """Estimate a class from P, d, the batch size, and the numbers of images.

    Parameters
    ----------
    model : PaDiM
    batch_size : int
    n_train, n_test : int
    dimensions : int, optional
        Another d than the model's.
    evaluated : bool
        Whether the test images' scores are held against labels afterwards.
    """
    d, (height, width) = dimensions or len(model.dimensions), model.size
    batch_size = min(batch_size, max(n_train, n_test))
    block = min(BLOCK, max(n_train, n_test))
    gaussians = 4 * model.positions * d * (d + block + 3)
    together = min(batch_size, FORWARD) if model.device.type == "cpu" else batch_size
    activations = int(_FORWARD * model.activation_bytes) * together
    decoded = 4 * 3 * height * width * batch_size * _BATCHES_AHEAD
    evaluation = _EVALUATION * min(height * width * n_test, SORTED) if evaluated else 0  # 更多的像素只计数，不排序
    if model.reduction == "pca":  # 求主成分时，几张图的全部通道及其离差；协方差此时还不存在
        gaussians = max(gaussians, 4 * model.positions * model.channels * 2 * POOLED)
    device = gaussians + activations
    on_host = device if model.device.type == "cpu" else 0
    return Estimate(device, max(on_host + decoded, evaluation))


def check_ablation(model: PaDiM, name: str, batch_size: int, n_train: int, n_test: int) -> None:
    """The same for a study, which keeps all channels' covariances and the test images' features and embeddings.

    Raises
    ------
    TooLargeError
    """
    features = sum(channels * height * width for channels, height, width in model.shapes)
    needed = estimate(model, batch_size, n_train, n_test)
    more = 4 * n_test * (2 * features + model.positions * model.channels)
    for where in {model.device.type, "cpu"}:
        on_device = where == model.device.type
        need = (needed.device if on_device and where != "cpu" else needed.host) + (more if on_device else 0)
        room = free(model.device if on_device else torch.device("cpu"))
        if room is not None and need > room:
            place = "main memory" if where == "cpu" else "GPU memory"
            raise TooLargeError(
                f"a study of class {name!r} keeps the covariances of all {model.channels} channels: about "
                f"{need / 1e9:.1f} GB of {place}, and {room / 1e9:.1f} GB are free; give a smaller --arch "
                "(resnet18 needs the least), fewer --layers, or a smaller --resize and --crop"
            )


def free(device: torch.device) -> int | None:
    """Free bytes of a GPU or of main memory, a container's limit included; None where unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        return min(available, _container_limit() or available)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _container_limit() -> int | None:
    """What a cgroup (v2) leaves; reclaimable file pages count as free."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # 没有上限（"max"），或没有 cgroup
        return None
    return max(0, limit - used + int(stat.get("inactive_file", 0)))


def check(
    model: PaDiM,
    name: str,
    batch_size: int,
    n_train: int,
    n_test: int,
    fitted: bool = False,
    *,
    processes: int = 1,
) -> None:
    """Compare the estimate with what is free.

    Parameters
    ----------
    model : PaDiM
    name : str
        The class.
    batch_size, n_train, n_test : int
    fitted : bool
        The features are there, and only score: they cannot have fewer dimensions or other positions, and
        nothing is evaluated.
    processes : int
        How many processes of this run share this machine's main memory: what is free is divided among them.
        GPU memory is not, since each process has a GPU of its own.

    Raises
    ------
    TooLargeError
        If the class will not fit; the message says what would.
    """
    for where in {model.device.type, "cpu"}:
        device = model.device if where == model.device.type else torch.device("cpu")
        room = free(device)
        shared = processes if where == "cpu" else 1
        if room is not None:
            room //= shared

        def need(batch: int, d: int | None = None, where: str = where) -> int:
            wanted = estimate(model, batch, n_train, n_test, d, evaluated=not fitted)
            return wanted.host if where == "cpu" else wanted.device

        if room is None or need(batch_size) <= room:
            continue
        remedies = []
        if fits := next((b for b in (16, 8, 4, 2, 1) if b < batch_size and need(b) <= room), None):
            remedies.append(f"--batch_size {fits}")
        smaller = () if fitted else range(len(model.dimensions) - 1, 0, -1)
        if fits := next((d for d in smaller if need(min(8, batch_size), d) <= room), None):
            remedies.append(f"--rd {fits} --batch_size {min(8, batch_size)}")
        advice = f"{' or '.join(remedies)} would fit" if remedies else "no option makes it fit here"
        if not (remedies or fitted):
            advice += " but a smaller --resize and --crop"
        place = "main memory" if where == "cpu" else "GPU memory"
        needed = f"{need(batch_size) / 1e9:.1f} GB of {place}"
        each = f" for each of {shared} processes" if shared > 1 else ""
        raise TooLargeError(f"class {name!r} needs about {needed}, and {room / 1e9:.1f} GB are free{each}; {advice}")
