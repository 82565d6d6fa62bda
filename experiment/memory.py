"""Will it fit, and what would: an error before the start, not a kill an hour later.

内存够不够：开始之前就报错，而不是一小时后被杀死。
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from datasets.preprocessing import Preprocessing, words
from padim.counts import at_once
from system.errors import UserError
from system.resources import free_memory

if TYPE_CHECKING:
    import torch

    from padim.model import PaDiM
    from padim.pretrained import Pretrained

_BATCHES_AHEAD = 4  # 解码线程领先的批数，加上正在用的一批
_PINNED = 4  # 送往 GPU 途中的批数（锁页内存）
_EVALUATION = 12  # 评估时，测试集的每个像素占用的字节数（缺陷占 7% 时），另有一段异常图的
_CHUNK = 20
_SHARES = 64  # 装不下时，试边长的 63/64、62/64……
_GROUP = 12  # 留出一组时，其中每张图的每个像素占用的字节数：异常图两份，图片
_REMEDY = "a smaller --batch_size or --rd, another --arch (resnet18 needs the least), or a smaller --resize and --crop"


class Room(NamedTuple):
    """What stays free: bytes where the model is, and how many times as much is free as is needed."""

    spare: int
    times: float


def check(
    model: "Pretrained",
    name: str,
    batch_size: int,
    n_train: int,
    n_test: int,
    *,
    processes: int = 1,
    evaluated: bool = True,
    stored: bool = True,
    more: int = 0,
    remedy: str = _REMEDY,
    preprocessing: Preprocessing | None = None,
) -> Room:
    """Compare what a class will need with what is free.

    Parameters
    ----------
    model : Pretrained
    name : str
        The class.
    batch_size, n_train, n_test : int
    processes : int
        How many processes of this run share this machine's main memory: what is free is divided among them.
        GPU memory is not, since each process has a GPU of its own.
    evaluated : bool
        Whether the test pictures' scores are held against labels afterwards.
    stored : bool
        Whether the Gaussians are written to a file or read from one: on a GPU main memory then holds a copy of them.
    more : int
        Bytes that are needed besides, on the model's device.
    remedy : str
        What needs less.
    preprocessing : Preprocessing, optional
        Of the pictures: the error names the largest ``--resize`` with which they would fit.

    Returns
    -------
    Room

    Raises
    ------
    UserError
        If the class will not fit.
    """
    on_cpu = model.device.type == "cpu"
    in_main, on_gpu = free_memory() // processes, 0 if on_cpu else _free_on_gpu(model.device)

    def terms(model: "Pretrained") -> list[tuple[str, int, int]]:
        needed, pixels = model.bytes_needed(batch_size, n_train, n_test), model.size[0] * model.size[1]
        ahead = _BATCHES_AHEAD + (0 if on_cpu else _PINNED)
        decoded = 4 * 3 * pixels * min(batch_size, max(n_train, n_test)) * ahead
        held = _EVALUATION * n_test + _CHUNK * min(at_once(*model.size), n_test)
        evaluation = pixels * held * evaluated  # 与下一类的拟合同时
        copy = 0 if on_cpu or not stored else model.state_bytes  # 均值与协方差，在主存与显存之间
        host = needed.host + decoded + copy + more * on_cpu + evaluation
        return [("main memory", host, in_main)] + ([] if on_cpu else [("GPU memory", needed.device + more, on_gpu)])

    wanted = terms(model)
    for place, need, free in wanted:
        if need > free:
            each = f" for each of {processes} processes" if processes > 1 and place == "main memory" else ""
            fits = preprocessing and _largest(model, preprocessing, lambda m: all(n <= f for _, n, f in terms(m)))
            raise UserError(
                f"class {name!r} needs about {need / 1e9:.1f} GB of {place}, and {free / 1e9:.1f} GB are free{each}; "
                f"{f'{fits} would fit; ' if fits else ''}{remedy} needs less"
            )
    _, need, free = wanted[-1]
    return Room(free - need, min(free / need for _, need, free in wanted))


def _largest(model: "Pretrained", asked: Preprocessing, fits: Callable[["PaDiM"], bool]) -> str | None:
    """The options of the largest images that fit, of the same form; None where none do, or the model is no PaDiM."""
    from padim.model import PaDiM  # 模型在，torch 也就在

    if not isinstance(model, PaDiM):
        return None
    for share in range(_SHARES - 1, 0, -1):
        smaller, (height, width) = asked.scaled(share, _SHARES), (-(-side * share // _SHARES) for side in model.size)
        with suppress(UserError):  # 网络认为太小的
            if fits(model.of_size(height, width)):
                return f"--resize {words(smaller.resize)} --crop {words(smaller.crop)}"
    return None


def check_group(model: "PaDiM", name: str, size: int, spare: int) -> None:
    """Raise UserError where so many training pictures of a class cannot be left out together.

    Parameters
    ----------
    model : PaDiM
    name : str
        The class.
    size : int
    spare : int
        From `check`: bytes that stay free, with a block of images in memory.
    """
    each = model.image_bytes + _GROUP * model.size[0] * model.size[1]
    most = model.block + spare // each
    if size > most:
        raise UserError(
            f"class {name!r}: leaving {size} training pictures out together needs "
            f"{(size - model.block) * each / 1e9:.1f} GB more, "
            f"and {spare / 1e9:.1f} GB are free; a group may have {most}: give --leave_out {most}, or one"
        )


def _free_on_gpu(device: "torch.device") -> int:
    import torch  # 有 GPU 上的模型，也就装入过了

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
