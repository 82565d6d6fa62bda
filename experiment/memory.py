"""Will it fit, and what would: an error before the start, not a kill an hour later.

内存够不够：开始之前就报错，而不是一小时后被杀死。
"""

from typing import TYPE_CHECKING, NamedTuple

from padim import BLOCK
from padim.counts import CHUNK
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

    Returns
    -------
    Room

    Raises
    ------
    UserError
        If the class will not fit.
    """
    needed = model.bytes_needed(batch_size, n_train, n_test)
    pixels, on_cpu = model.size[0] * model.size[1], model.device.type == "cpu"
    decoded = 4 * 3 * pixels * min(batch_size, max(n_train, n_test)) * (_BATCHES_AHEAD + (0 if on_cpu else _PINNED))
    evaluation = pixels * (_EVALUATION * n_test + _CHUNK * min(CHUNK, n_test)) * evaluated  # 与下一类的拟合同时
    copy = 0 if on_cpu or not stored else model.state_bytes  # 均值与协方差，在主存与显存之间
    host = needed.host + decoded + copy + more * on_cpu + evaluation
    wanted = [("main memory", host, free_memory() // processes)]
    if not on_cpu:
        wanted.append(("GPU memory", needed.device + more, _free_on_gpu(model.device)))
    for place, need, free in wanted:
        if need > free:
            each = f" for each of {processes} processes" if processes > 1 and place == "main memory" else ""
            raise UserError(
                f"class {name!r} needs about {need / 1e9:.1f} GB of {place}, and {free / 1e9:.1f} GB are free{each}; "
                f"{remedy} needs less"
            )
    return Room(wanted[-1][2] - wanted[-1][1], min(free / need for _, need, free in wanted))


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
    most = BLOCK + spare // each
    if size > most:
        raise UserError(
            f"class {name!r}: leaving {size} training pictures out together needs {(size - BLOCK) * each / 1e9:.1f} GB "
            f"more, and {spare / 1e9:.1f} GB are free; a group may have {most}: give --leave_out {most}, or one"
        )


def _free_on_gpu(device: "torch.device") -> int:
    import torch  # 有 GPU 上的模型，也就装入过了

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
