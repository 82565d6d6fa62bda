"""What export.py wrote of a class, for scoring new pictures with onnxruntime. Imports no torch.

用 onnxruntime 与 export.py 写出的模型给新图片打分，不需要 PyTorch。
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiment.files.records import NUMBER, is_fitted_record, matches
from system.errors import UserError
from system.resources import cores

INPUT, OUTPUTS = "pictures", ("map", "score")

# 元数据：拟合时的记录（experiment.files.records.FITTED），另加这些；每个值都写成 JSON
EXPORTED = {
    "class": str,
    "threshold": (NUMBER, None),
    "pixel_threshold": (NUMBER, None),
    "threshold_origin": str,
    "half": bool,
}


class MapsAndScores(NamedTuple):
    """Of B pictures: raw maps (B, H, W) float32, and their maxima (B,)."""

    maps: np.ndarray
    image_scores: np.ndarray


def session_options() -> Any:
    """``onnxruntime.SessionOptions`` for this process's cores, which threads that wait leave to others."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = cores(), 4  # 出的错由异常说
    # 等着的线程让出核，给解码线程用；同 system.command.yield_while_waiting
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class ExportedModel:
    """The ONNX file; `experiment.scoring.torch_model.StoredModel` does the same with PyTorch.

    Parameters
    ----------
    path : Path
    device : str
        ``auto`` or ``cpu``.

    Attributes
    ----------
    name : str
        Of the class.
    device_type : str
        ``cpu``.
    record : dict
        The metadata: of the form of `experiment.files.records.FITTED` and `EXPORTED`.

    Raises
    ------
    UserError
        For another device; if there is no onnxruntime or no file, or the file is damaged or none of export.py.
    """

    device_type = "cpu"

    def __init__(self, path: Path, device: str):
        if device not in ("auto", "cpu"):
            raise UserError(
                f"--device {device} is for stored features; an exported model runs on the CPU, leave it out"
            )
        try:
            import onnxruntime
        except ImportError as problem:
            raise UserError(
                f"{str(path)!r} needs onnxruntime, which is not installed; "
                "python -m pip install -r requirements-predict.txt"
            ) from problem
        if not path.is_file():
            raise UserError(f"no exported model {str(path)!r}; export.py writes them, see --model")
        try:
            self._session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
        except Exception as problem:  # 文件里什么都可能有，抛什么都有可能
            raise _refused(path, _in_a_line(problem)) from problem
        self.path = path
        self.record = self._metadata()
        self.name = self.record["class"]

    def _metadata(self) -> dict[str, Any]:
        try:
            stored = self._session.get_modelmeta().custom_metadata_map
            record = {key: json.loads(value) for key, value in stored.items()}
        except (ValueError, RecursionError) as problem:
            raise _refused(self.path, "its metadata is no JSON") from problem
        takes = [(each.name, each.shape[1:], each.type) for each in self._session.get_inputs()]
        gives = tuple(each.name for each in self._session.get_outputs())
        sound = is_fitted_record(record) and matches(record, EXPORTED)
        if not sound or takes != [(INPUT, [*record["size"], 3], "tensor(uint8)")] or gives != OUTPUTS:
            raise _refused(self.path, "it is not what export.py writes")
        return record

    def load(self, weights: str | None, batch_size: int, count: int) -> None:
        """Everything is there already.

        Raises
        ------
        UserError
            For other weights than the model's own.
        """
        if weights is not None:
            raise UserError(f"--weights {weights} is for stored features; an exported model has its own, leave it out")

    def score(self, batches: Iterable[np.ndarray]) -> Iterator[MapsAndScores]:
        """Maps and scores, batch by batch, of prepared pictures (B, H, W, 3) uint8."""
        for pictures in batches:
            try:
                made = self._session.run(OUTPUTS, {INPUT: pictures})
            except Exception as problem:  # 多半是内存
                raise UserError(
                    f"onnxruntime cannot score {len(pictures)} pictures with {str(self.path)!r} "
                    f"({_in_a_line(problem)}); a smaller --batch_size needs less memory"
                ) from problem
            yield MapsAndScores(*made)


def _refused(path: Path, reason: str) -> UserError:
    return UserError(
        f"{str(path)!r} is damaged, or no exported model ({reason}); export it again, and keep {path.name}.data "
        "beside it where there is one"
    )


def _in_a_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:120]
