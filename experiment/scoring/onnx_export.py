"""A fitted model to an ONNX file that needs nothing else: the graph, and in its metadata all that scoring takes.

把拟合好的模型写成 ONNX 文件：计算图，以及元数据里打分所需的一切。
"""

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from datasets.preprocessing import MEAN, STD
from experiment.report.threshold import Thresholds
from experiment.scoring.onnx_model import INPUT, OUTPUTS
from padim.export import Deployed
from padim.model import PaDiM
from system.files import check_room, replacing
from system.lock import lock

EXAMPLE = 2  # 导出时示例的张数：若只有一张，批的大小会成为常数
LIMIT = 2_000_000_000  # 字节：protobuf 的消息不能到 2 GB，再大的权重放在旁边的文件里


def metadata(name: str, record: dict[str, Any], thresholds: Thresholds, half: bool) -> dict[str, Any]:
    """What goes into the ONNX file beside the graph: `scoring.onnx_model.EXPORTED`, after the record of the fit.

    Parameters
    ----------
    name : str
        Of the class.
    record : dict
        The JSON beside its pickle.
    thresholds : Thresholds
    half : bool
    """
    return record | {
        "class": name,
        "threshold": thresholds.decision,
        "pixel_threshold": thresholds.pixel,
        "threshold_origin": thresholds.origin,
        "half": half,
    }


def bytes_besides(gaussians: int, half: bool) -> int:
    """An estimate of the memory that an export takes beside the model.

    Parameters
    ----------
    gaussians : int
        Bytes of the means and covariances.
    half : bool
    """
    if half:  # 转换时两种精度的矩阵同在；其后的消息不会更大
        return gaussians // 2
    return 2 * gaussians if gaussians <= LIMIT else 0  # 一份在 protobuf 的消息里，一份是它的字节；另放的权重逐个写出


def write_exported(path: Path, model: PaDiM, described: dict[str, Any]) -> list[Path]:
    """Write a fitted model as ONNX; above `LIMIT` its weights lie in ``….onnx.data`` beside it.

    Parameters
    ----------
    path : Path
        ``….onnx``. What is there is replaced once the new file is complete.
    model : PaDiM
        On the CPU. It gives its Gaussians up.
    described : dict
        From `metadata`.

    Returns
    -------
    list of Path
        What was written, the ONNX file first.

    Raises
    ------
    system.errors.UserError
        If a covariance has no Cholesky factor, there is no room, or another process writes the same file.
    OSError
    """
    module = Deployed(model, MEAN, STD, described["half"]).eval()
    weights = sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
    check_room(path, weights, "give another --out")
    # 导出器说的是它自己的内部：作为警告，torch 2.9 也写进日志
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros((EXAMPLE, *model.size, 3), dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert program is not None  # dynamo=True 总有
    graph = program.model.graph
    values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    for each in (graph, *graph, *values, *(value for node in graph for value in node.outputs)):
        each.metadata_props.clear()  # 导出器的记录，其中有这台机器上的路径
    program.model.metadata_props.update({key: json.dumps(value) for key, value in described.items()})
    beside = path.with_name(f"{path.name}.data")
    with lock(path.with_name(f".lock_{path.name}"), "give another --out"), _staged(path) as staged:
        program.save(staged, external_data=weights > LIMIT)
        own = staged.with_name(beside.name)
        path.unlink(missing_ok=True)  # the old one goes first, the new one comes last; 在场的两个文件总是一对
        if is_large := own.exists():
            _move(own, beside)
        else:
            beside.unlink(missing_ok=True)
        _move(staged, path)
    return [path, beside] if is_large else [path]


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """The same file name in a folder of its own beside it, which also takes away what a killed export left there."""
    folder = path.with_name(f"{path.name}.tmp")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder / path.name  # 大权重的文件名记在图里，所以不换名字，换文件夹
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        source.replace(temporary)
