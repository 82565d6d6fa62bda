"""What main.py stored of a class, for scoring new pictures with PyTorch.

用 PyTorch 与 main.py 存下的特征给新图片打分。
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from datasets.preprocessing import to_images
from experiment import memory
from experiment.files.gaussians import DamagedError
from experiment.files.records import read_fitted_record
from experiment.models import model_of
from experiment.saving import load
from padim.device import pick_device
from padim.model import Scores
from system.errors import UserError


class StoredModel:
    """The pickle and its JSON; `experiment.scoring.onnx_model.ExportedModel` does the same without PyTorch.

    Parameters
    ----------
    path : Path
    device : str
        As for `padim.device.pick_device`.

    Attributes
    ----------
    name : str
        Of the class.
    device_type : str
        ``cpu`` or ``cuda``.
    record : dict
        The JSON.
    model : PaDiM
        After `load`.

    Raises
    ------
    UserError
        If the device cannot be used, there is no pickle, or its record is not sound.
    """

    def __init__(self, path: Path, device: str):
        self._device = pick_device(device)
        self.device_type = self._device.type
        self.path, self.record = path, read_fitted_record(path)
        self.name = path.stem.removeprefix("train_")

    def load(
        self,
        weights: str | None,
        batch_size: int,
        count: int,
        more: int = 0,
        remedy: str = "a smaller --batch_size",
    ) -> None:
        """Read what scoring so many pictures takes.

        Parameters
        ----------
        weights : str or None
            None for those recorded.
        batch_size, count : int
        more : int
            Bytes that the caller needs besides.
        remedy : str
            What needs less memory, as for `experiment.memory.check`.

        Raises
        ------
        UserError
            If these are not the weights, or the device has no such precision; if memory does not suffice, or the pickle
            is damaged.
        """
        if self.record["precision"] == "tf32" and self.device_type != "cuda":
            raise UserError(f"{str(self.path)!r} was made with --precision tf32, which needs a GPU; see --device")
        self.model = model_of(self.record, weights or self.record["weights"], self._device)
        count = self.model.block = min(count, self.model.block)  # 内存不写到用不着的地方：只有一张时，快 0.2 秒
        memory.check(self.model, self.name, batch_size, 0, count, evaluated=False, more=more, remedy=remedy)
        try:
            load(self.model, self.path)
        except DamagedError as problem:
            raise UserError(f"{problem}; fit again with --refit") from problem

    def score(self, batches: Iterable[np.ndarray]) -> Iterator[Scores]:
        """Maps and scores, block by block, of prepared pictures (B, H, W, 3) uint8."""
        return self.model.score(torch.from_numpy(to_images(pictures)) for pictures in batches)
