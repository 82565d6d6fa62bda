"""Dividing a run among ranks, the processes that ``torchrun`` starts on one machine or several.

Without torchrun a run is one rank, `SOLO`: no process group, and torch.distributed is not imported.
"""

import heapq
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

# 集合通信的时限只是最后的保险：一个进程死了，靠连接断开与 torchrun 得知；写几 GB 文件的进程不该被当作死的
_PATIENCE = timedelta(days=2)
# 一个类别中不随图片数增长的工作（分解、评估、落盘）与合并高斯所需，折合图片数；只用来选择分法
_FIXED, _MERGE = 60, 60

Item = TypeVar("Item")
Handler = Callable[..., None]


class RankError(RuntimeError):
    """Another rank has ended before its time; the message is one line."""


class UnlikeError(ValueError):
    """Machines that do not see the same; the message is one line with the remedy."""


@contextmanager
def _together() -> Iterator[None]:
    """Communication: whatever goes wrong in it is another rank's end."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:  # gloo 与 NCCL 各抛各的，都是 RuntimeError
        reason = " ".join(str(problem).split())[:160]
        raise RankError(f"another rank of this run has ended ({reason})") from problem


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
    _tags: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which checks, writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's part of ``count`` items; the parts differ by one at most."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def turns(self, items: Sequence[Item]) -> Iterator[Item]:
        """Items in order, each on one rank only, whichever is free first."""
        if self.size == 1:
            yield from items
            return
        while True:
            with _together():
                index = self._store.add("turn", 1) - 1
            if index >= len(items):
                return
            yield items[index]

    def agree(self, work: Callable[[], Item]) -> Item:
        """What ``work`` returns on the leader, on every rank; if it raises there, the run ends."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        box = [work() if self.leads else None]
        with self._timed(), _together():
            dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Item) -> list[Item]:
        """Every rank's value, by rank, on every rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._timed(), _together():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Other ranks enter after the leader has left: it alone downloads, and is the first to meet a mistake."""
        if not self.leads:
            self.agree(lambda: None)
        yield
        if self.leads:
            self.agree(lambda: None)

    def check_same(self, *facts: Any) -> None:
        """Raise unless all ranks know the same: what each reads for itself then decides alike everywhere.

        Raises
        ------
        UnlikeError
            The message names a host that differs.
        """
        if self.size > 1:
            everyone = self.gather((socket.gethostname(), repr(facts)))
            for host, theirs in everyone:
                if theirs != everyone[0][1]:
                    raise UnlikeError(
                        f"{host} and {everyone[0][0]} do not see the same data, weights or devices; all machines need "
                        "the same --data_path, --save_path and --weights"
                    )

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a contiguous tensor over all ranks, in place."""
        if self.size > 1:
            import torch.distributed as dist

            with self._timed(), _together():
                dist.all_reduce(tensor)
                if tensor.device.type == "cuda":  # 不在 C 里等：别的进程死了，要能收到 torchrun 的 SIGTERM
                    done = torch.cuda.Event()
                    done.record()
                    while not done.query():
                        time.sleep(0.001)
        return tensor

    def from_leader(self, tensor: Tensor) -> Tensor:
        """The leader's values of a contiguous tensor, in place, bit for bit."""
        return self.sum_(tensor if self.leads else tensor.zero_())

    @contextmanager
    def delivering(self, handler: Handler) -> Iterator[Handler]:
        """A function that hands ``(head, *arrays)`` to the leader's ``handler``, from any rank.

        ``head`` is a dict for JSON, the arrays are numpy's. The leader handles what arrives at once, one
        at a time, in a thread for each other rank; its block ends when all ranks' blocks have ended.

        Raises
        ------
        RankError
            If a rank ends within its block.
        """
        if self.size == 1:
            yield handler
            return
        self._tags += 1  # 各处的消息各用一个标签：各进程按同样的次序进入
        if not self.leads:
            tag = self._tags
            yield lambda *message: self._send(tag, *message)
            self._send(tag, {"end": True})
            return
        tag, lock, problems, closed = self._tags, threading.Lock(), [], threading.Event()

        def handle(*message: Any) -> None:
            if problems:  # 别的进程已死，或写不下去了：不必做到最后才说
                raise problems[0]
            with lock:
                handler(*message)

        def listen(source: int) -> None:
            try:
                while (message := _receive(source, tag)) is not None:
                    with lock:
                        if closed.is_set():
                            return
                        handler(*message)
            except Exception as problem:
                problems.append(problem)

        # 守护线程：本进程出了错就走，不等别人
        listeners = [threading.Thread(target=listen, args=(r,), daemon=True) for r in range(1, self.size)]
        for listener in listeners:
            listener.start()
        try:
            yield handle
        except BaseException:
            with lock:  # 出了这里，处理者所写的文件就关了：迟到的不再处理
                closed.set()
            raise
        with self._timed():
            for listener in listeners:
                while listener.is_alive():
                    listener.join(0.2)
        if problems:
            raise problems[0]

    def _send(self, tag: int, head: dict[str, Any], *arrays: np.ndarray) -> None:
        import torch.distributed as dist

        head = head | {"arrays": [[array.dtype.str, array.shape] for array in arrays]}
        text = np.frombuffer(json.dumps(head).encode(), np.uint8).copy()
        with self._timed(), _together():
            for part in (np.array([len(text)]), text, *arrays):
                if part.size:
                    flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
                    dist.send(torch.from_numpy(flat), 0, tag=tag)

    def may_speak(self) -> bool:
        """Whether this rank is the first to ask: an end is reported once."""
        if self._store is None:
            return True
        try:
            return self._store.add("spoken", 1) == 1
        except RuntimeError:  # 连 torchrun 也不在了
            return True

    def leave(self) -> None:
        """End the process group, when all ranks have come this far."""
        if self.size > 1:
            import torch.distributed as dist

            self.agree(lambda: None)
            dist.destroy_process_group()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


SOLO = Ranks()


def _receive(source: int, tag: int) -> tuple | None:
    """The next message of a rank: its head and arrays; None for the last."""
    import torch.distributed as dist

    def take(count: int) -> np.ndarray:
        raw = torch.empty(count, dtype=torch.uint8)
        if count:
            dist.recv(raw, source, tag=tag)
        return raw.numpy()

    with _together():
        head = json.loads(take(int(take(8).view(np.int64)[0])).tobytes())
        if head.get("end"):
            return None
        kinds = [(np.dtype(kind), shape) for kind, shape in head.pop("arrays")]
        return head, *(take(d.itemsize * int(np.prod(shape))).view(d).reshape(shape) for d, shape in kinds)


def join() -> Ranks:
    """Join the ranks that torchrun has started.

    Every rank gets its part of the machine's cores: torchrun itself says one thread unless OMP_NUM_THREADS
    says more.
    """
    import torch.distributed as dist

    numbers = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    rank, size, local_rank, local_size = map(int, numbers)
    if local_size > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _together():
        store, _, _ = next(dist.rendezvous("env://", rank, size))
        store.set_timeout(_PATIENCE)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    own = dist.PrefixStore(f"padim/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return Ranks(rank, size, local_rank, local_size, _store=own)


def whole_classes(counts: Sequence[int], ranks: int) -> bool:
    """Whether it is faster to give whole classes to ranks than to divide the images of each.

    Parameters
    ----------
    counts : sequence of int
        Every class's images, training and test.
    ranks : int
    """
    if len(counts) <= ranks:
        return False
    loads = [0] * ranks
    for count in sorted(counts, reverse=True):  # 最长的先派，派给最先空出来的
        heapq.heapreplace(loads, loads[0] + count + _FIXED)
    return max(loads) <= sum(count / ranks + _FIXED + _MERGE for count in counts)
