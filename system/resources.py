"""What this process may use of the machine: cores and memory, a container's limits included.

本进程可用的核与内存（含容器的限制）。
"""

import os
import sys
from math import prod
from pathlib import Path

import numpy as np
import psutil


def cores() -> int:
    """Cores that this process may use; where torchrun has started several processes here, its part of them."""
    process = psutil.Process()
    # macOS 没有亲和性
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    quota = _quota()
    if quota is not None:
        allowed = min(allowed, quota)
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def free_memory() -> int:
    """Bytes of main memory that can be had without swapping, a container's limit (cgroup v2) included."""
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # 没有上限（"max"），或没有 cgroup
        return available
    return min(available, max(0, limit - used + int(stat.get("inactive_file", 0))))  # 可回收的文件页算空闲


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised float32 that begins at a multiple of 64 bytes.

    Numpy, unlike torch, asks the system for huge pages, but aligns to 16 bytes only; and the last bit
    of a matrix product may depend on the alignment.
    """
    count = 4 * prod(shape)
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(np.float32).reshape(shape)


def peak_memory() -> int | None:
    """Peak resident size of this process in bytes; None where the system does not tell."""
    if sys.platform == "linux":  # getrusage 会把启动本进程者的峰值也算进来
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # Windows 没有这个模块

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _quota() -> int | None:
    """Whole cores that a container's quota (cgroup v2) allows; None where there is none."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(most) // int(period))
    except (OSError, ValueError):
        return None
