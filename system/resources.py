"""What this process may use of the machine: cores and memory, a container's limits included.

本进程可用的核与内存（含容器的限制）。
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np

# cgroup v2 与 v1：上限、已用、统计中可回收的文件页
_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _groups(group: Path, mounted: Path, controller: str) -> Iterator[Path]:
    """The folders of a process's control groups, of both versions, from its own up to the root: each may limit it."""
    try:
        lines = [
            line.split(":", 2) for line in group.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        ]
    except OSError:  # 不是 Linux
        return
    for _, controllers, own in lines:
        if controllers and controller not in controllers.split(","):
            continue
        for root in [mounted / controllers, mounted / controller] if controllers else [mounted, mounted / "unified"]:
            # 容器里未必看得见自己的那一级：看得见的都算
            yield from (root / level.relative_to("/") for level in (Path(own), *Path(own).parents))


def cores() -> int:
    """Cores that this process may use; where torchrun has started several processes here, its part of them."""
    import psutil  # --help 不必等它

    process = psutil.Process()
    # macOS 没有亲和性
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    quota = _quota()
    if quota is not None:
        allowed = min(allowed, quota)
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def free_memory(group: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory that can be had without swapping, the limits of all its control groups included.

    Parameters
    ----------
    group, mounted : Path
        Where Linux says which groups the process is in, and where groups are.
    """
    import psutil

    free = psutil.virtual_memory().available
    for limited, used, inactive in _MEMORY:
        for folder in _groups(group, mounted, "memory"):
            with suppress(OSError, ValueError):  # 没有上限（"max"），或这一版没有这个文件
                limit, taken = (int((folder / name).read_text()) for name in (limited, used))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free = min(free, max(0, limit - taken + int(stat.get(inactive, 0))))  # 可回收的文件页算空闲
    return free


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
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # Windows 没有这个模块

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _quota(group: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole cores that the quotas of its control groups allow; None where there is none."""
    found = []
    for folder in _groups(group, mounted, "cpu"):
        with suppress(OSError, ValueError):  # 没有上限（"max"）
            most, period = (folder / "cpu.max").read_text().split()
            found.append(max(1, int(most) // int(period)))
        with suppress(OSError, ValueError):
            most, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            found += [max(1, int(most) // int(period))] * (int(most) > 0)  # −1：没有上限
    return min(found, default=None)
