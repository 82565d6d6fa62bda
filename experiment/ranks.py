"""Dividing a run among ranks, the processes that ``torchrun`` starts on one machine or several.

把一次运行分给 torchrun 启动的各进程：每类的图片均分，高斯合并，得分汇到第一个进程。

Without torchrun a run is one rank, `SOLO`: no process group. With it the pictures of each class are divided;
every rank calls the same functions in the same order.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from system.command import Terminated
from system.errors import UserError
from system.resources import cores

if TYPE_CHECKING:
    from torch import Tensor

# 集合通信的时限只是最后的保险：一个进程死了，靠连接断开与 torchrun 得知；写几 GB 文件的进程不该被当作死的
_PATIENCE = timedelta(days=2)
# gloo 对连接断开只抛 RuntimeError，靠它的用词认出
_BROKEN = ("gloo", "connection", "peer", "socket", "timed out", "nccl")

Item = TypeVar("Item")


class RankError(UserError):
    """Another rank has ended before its time."""


@contextmanager
def _together() -> Iterator[ModuleType]:
    """Communication: a connection that breaks is another rank's end, whatever else fails is this one's own."""
    import torch  # 只有一个进程时，用不到它
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as problem:
        reason = " ".join(str(problem).split())
        is_broken = isinstance(problem, dist.DistError) or any(word in reason.lower() for word in _BROKEN)
        if isinstance(problem, torch.OutOfMemoryError) or not is_broken:
            raise
        raise RankError(
            f"another rank of this run has ended ({reason[:160]}); the same command goes on from the last finished "
            "class"
        ) from problem


@dataclass
class Ranks:
    """This process among the ranks of a run.

    Attributes
    ----------
    rank, size : int
        Number of this rank, and of all.
    local_rank, local_size : int
        The same on this machine.
    seconds : float
        Spent in communication by this process, waiting for others included.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    seconds: float = 0.0
    _store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which checks, writes and speaks."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> range:
        """A rank's part of ``count`` items, by default this one's; the parts differ by one at most."""
        rank = self.rank if rank is None else rank
        return range(rank * count // self.size, (rank + 1) * count // self.size)

    def agree(self, work: Callable[[], Item]) -> Item:
        """What ``work`` returns on the leader, on every rank; if it raises there, the run ends."""
        if self.size == 1:
            return work()
        import torch

        box: list[Any] = [work() if self.leads else None]
        with self._timed(), _together() as dist:
            dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Item) -> list[Item]:
        """Every rank's value, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._timed(), _together() as dist:
            dist.all_gather_object(values, value)
        return values

    def to_leader(self, value: Item) -> list[Item]:
        """Every rank's value, by rank, on the leader; nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        with self._timed(), _together() as dist:
            dist.gather_object(value, values, 0)
        return values or []

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Other ranks enter after the leader has left: it alone downloads, and is the first to meet a mistake."""
        if not self.leads:
            self.agree(lambda: None)
        yield
        if self.leads:
            self.agree(lambda: None)

    def check_same(self, *facts: Any) -> None:
        """Raise UserError, naming a host, unless all ranks know the same: each decides by what it reads."""
        everyone = self.gather((socket.gethostname(), repr(facts)))
        for host, theirs in everyone:
            if theirs != everyone[0][1]:
                raise UserError(
                    f"{host} and {everyone[0][0]} do not see the same data, weights or devices; all machines need "
                    "the same --data_path, --save_path and --weights"
                )

    def sum(self, tensor: "Tensor") -> "Tensor":
        """Add up a contiguous tensor over all ranks, in place."""
        if self.size > 1:
            import torch

            with self._timed(), _together() as dist:
                dist.all_reduce(tensor)
                if tensor.device.type == "cuda":  # 不在 C 里等：别的进程死了，要能收到 torchrun 的 SIGTERM
                    done = torch.cuda.Event()
                    done.record()
                    while not done.query():
                        time.sleep(0.001)
        return tensor

    def speak_once(
        self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None
    ) -> None:
        """Called as a context's end: of several ranks that end by an error, the first one says why.

        Raises
        ------
        SystemExit
            On the others, with status 2.
        RankError
            On the first one, if it was ended from outside.
        """
        if problem is None or self._store is None:
            return
        with suppress(RuntimeError):  # 连 torchrun 也不在了
            if self._store.add("spoken", 1) > 1:
                raise SystemExit(2)
        if isinstance(problem, Terminated):
            raise RankError(
                "ended from outside, or because another process of this run has; the same command goes on from the "
                "last finished class"
            )

    def leave(self) -> None:
        """End the process group, when all ranks have come this far."""
        if self.size > 1:
            self.agree(lambda: None)
            with _together() as dist:
                dist.destroy_process_group()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


SOLO = Ranks()


def is_divided() -> bool:
    """Whether torchrun has started this process as one of several."""
    known = all(os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return known and int(os.environ["WORLD_SIZE"]) > 1


def join() -> Ranks:
    """Join the ranks that torchrun has started; without torchrun `SOLO`.

    Every rank gets its part of the machine's cores: torchrun itself says one thread unless OMP_NUM_THREADS
    says more.
    """
    if not is_divided():
        return SOLO
    import torch

    numbers = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    rank, size, local_rank, local_size = map(int, numbers)
    if local_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(cores())
    with _together() as dist:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        store, _, _ = next(dist.rendezvous("env://", rank, size))
        store.set_timeout(_PATIENCE)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        own = dist.PrefixStore(f"padim/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return Ranks(rank, size, local_rank, local_size, _store=own)
