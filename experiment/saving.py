"""A model's state to and from the files of `experiment.files.gaussians`, in the background while scoring begins.

模型状态的存与取；存盘与打分的开头同时进行。
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.files.gaussians import DamagedError, Progress, read_components, read_fitted, write_fitted
from experiment.files.provenance import stored_state
from experiment.files.records import read_fitted_record
from experiment.files.region import from_text
from experiment.models import describe
from experiment.ranks import Ranks
from system.command import wait_for
from system.errors import UserError
from system.files import Staged

if TYPE_CHECKING:
    from padim.model import PaDiM


def save(model: "PaDiM", path: Path, **more: Any) -> None:
    """Write a fitted model's pickle and its JSON.

    Parameters
    ----------
    model : PaDiM
    path : Path
        ``….pkl``.
    more
        More entries for the JSON, about the training pictures: `experiment.files.records` says which.

    Raises
    ------
    ValueError
        If nothing is fitted.
    OSError
    """
    write_model(model, path, Progress(), None, more)


def write_model(
    model: "PaDiM", path: Path, progress: Progress, staged: Staged | None, more: dict[str, Any]
) -> dict[str, Any]:
    """As `save`; given ``staged``, it gets the pickle, and the JSON, which is returned, must be added."""
    mean, covariance = (t.cpu().numpy() for t in model.state())
    components = None if model.components is None else model.components.cpu().numpy()
    if model.device.type != "cpu":
        progress.dumped.set()  # 主存里的是一份副本：不等它写到盘上，显存就可改写
    return write_fitted(path, mean, covariance, describe(model) | more, components, progress, staged)


def load(model: "PaDiM", path: Path) -> None:
    """Give a model the state that `save` wrote, and the region.

    Raises
    ------
    experiment.files.gaussians.DamagedError
        If the file is truncated or of another shape.
    """
    model.release()  # 旧的高斯不与新的同占内存
    components = None
    if model.reduction == "pca":
        components = read_components(path, len(model.dimensions), model.channels)
    mean, covariance = read_fitted(path, model.positions, len(model.dimensions))
    record = read_fitted_record(path)
    model.load_state(mean, covariance, components, record["n_train"])
    model.region = from_text(record["region"])


def load_if_same(model: "PaDiM", path: Path, made_from: dict[str, Any], ranks: Ranks) -> str:
    """Give a model the stored Gaussians, if they are what this run would fit.

    Parameters
    ----------
    model : PaDiM
    path : Path
    made_from : dict
        ``preprocessing``, ``cut_off`` and ``training_files``, as they would be stored.
    ranks : Ranks
        All of them decide alike.

    Returns
    -------
    str
        ``loaded``; or why not: ``none``, ``other data``, ``damaged``.

    Raises
    ------
    UserError
        If another configuration or another program made them.
    """
    state = ranks.agree(lambda: stored_state(path, describe(model) | made_from))
    if state != "same":
        return state
    region = model.region
    try:
        load(model, path)
    except DamagedError:
        state = "damaged"
    model.region = region  # 高斯与区域无关：看哪里，由这次运行定
    return "damaged" if "damaged" in ranks.gather(state) else "loaded"


def stored_record(path: Path) -> dict[str, Any] | None:
    """The JSON beside a pickle; None where the two are not there, or do not belong together."""
    with suppress(UserError):
        return read_fitted_record(path)
    return None


class Saving:
    """A fitted model to the disk in a thread, while scoring reads and embeds its first block of images.

    Parameters
    ----------
    model : PaDiM
    path : Path
        The pickle.
    staged : Staged, optional
        Gets the pickle where something of the class stands, which stays, with its thresholds, until those of the new
        one are known; the JSON is to be added. Without it both are there as soon as they are written, so that a run
        that is interrupted need not fit again.
    more
        As for `save`.
    """

    def __init__(self, model: "PaDiM", path: Path, staged: Staged | None = None, **more: Any):
        self._progress = Progress()
        pool = ThreadPoolExecutor(1, "save")
        self._writing = pool.submit(write_model, model, path, self._progress, staged, more)
        self._writing.add_done_callback(lambda _: self._progress.dumped.set())
        pool.shutdown(wait=False)  # 不再收新任务；已交的照做

    def wait_read(self) -> None:
        """Wait until the model's memory is no longer read."""
        while not self._progress.dumped.wait(0.2):  # 不带时限的等待在 Windows 上不可中断
            pass

    def finish(self) -> dict[str, Any]:
        """Wait until the files are written, and raise what went wrong; returns the content of the JSON."""
        wait_for(self._writing)
        return self._writing.result()

    def abort(self) -> None:
        """Give up at once: what was stored before stays."""
        self._progress.stop.set()
        self._writing.exception()
