"""Whether stored results are of the data at hand and made alike: one table never holds two data sets.

已存的结果是否出自手头的数据、以同样的配置得来：一张表里绝不混有两个数据集。
"""

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datasets.folder import FolderDataset
from datasets.images import DataError
from datasets.preprocessing import Preprocessing
from datasets.region import fingerprint, read_region
from experiment.files.records import CONFIGURATION, matches
from experiment.files.unpickle import REMEDY
from system.errors import UserError
from system.files import read_json


class DataFolder:
    """The classes below a data folder, and what identifies them; no file is hashed twice.

    Parameters
    ----------
    dataset : type of FolderDataset
        The data set that lies there.
    root : Path
        The folder that holds the classes.
    preprocessing : Preprocessing
    region : Path, optional
        As `datasets.region.read_region` takes it.
    """

    def __init__(
        self, dataset: type[FolderDataset], root: Path, preprocessing: Preprocessing, region: Path | None = None
    ):
        self.dataset, self.root, self.preprocessing, self._region = dataset, root.resolve(), preprocessing, region
        self._contents: dict[str, dict[str, str]] = {}
        self._repeated: dict[str, list[str]] = {}

    def split(self, name: str, split: str) -> FolderDataset:
        """One of a class's splits, see `datasets.folder.SPLITS`."""
        return self.dataset(self.root, name, split, self.preprocessing)

    def train_and_test(self, name: str) -> tuple[FolderDataset, FolderDataset]:
        """A class's training and test pictures."""
        return self.split(name, "train"), self.split(name, "test")

    def _validation(self, name: str) -> list[FolderDataset]:
        """The validation pictures, in the data sets that have them; scored as the test pictures are."""
        pictures = self.split(name, "validation")
        return [pictures] if len(pictures) else []

    def file_names(self, name: str) -> str | None:
        """SHA-256 over the names of a class's pictures and masks; None where the class is not in order."""
        try:
            splits = [*self.train_and_test(name), *self._validation(name)]
            return hashlib.sha256("".join(split.summary() for split in splits).encode()).hexdigest()
        except DataError:
            return None

    def contents(self, name: str) -> dict[str, str]:
        """Fingerprints of a class's ``training_files`` and ``test_files``, contents included."""
        if name not in self._contents:
            train, test = self.train_and_test(name)
            others = test, *self._validation(name)
            tested = "".join(split.fingerprint() for split in others)
            self._contents[name] = {"training_files": train.fingerprint(), "test_files": tested}
            known = {train.digests[file] for file in train.files}
            again = [file for split in others for file in split.files if split.digests[file] in known]
            self._repeated[name] = [file.relative_to(train.folder).as_posix() for file in again]
        return self._contents[name]

    def repeated(self, name: str) -> list[str]:
        """A line about test and validation pictures whose content a training picture has, too, where there are any."""
        self.contents(name)
        if not (again := self._repeated[name]):
            return []
        which = "test pictures are also training pictures, which they make look better than new ones"
        return [f"{len(again)} {which}, such as {again[0]!r}: take them out of one of the two"]

    def record(self, name: str) -> dict[str, Any]:
        """What is stored with a class's results."""
        place = {"dataset": self.dataset.NAME, "data_path": str(self.root)}
        return {**place, "file_names": self.file_names(name), **self.contents(name)}

    def holds(self, name: str) -> bool:
        """Whether there is such a class."""
        return self.dataset.is_class(self.dataset.folder_of(self.root, name))

    def is_unchanged(self, name: str, stored: Mapping[str, Any]) -> bool:
        """Whether a class's files are those of a stored record."""
        return all(stored[key] == value for key, value in self.contents(name).items())

    def has_region(self, name: str, stored: Mapping[str, Any]) -> bool:
        """Whether a stored record's region is the one that is given for the class; studies have none."""
        with suppress(UserError):  # 没有给这一类的
            return fingerprint(read_region(self._region, name, self.preprocessing)) == stored.get("region")
        return False


def gone(stored: Mapping[str, Mapping[str, Any]], here: DataFolder, chosen: Collection[str]) -> list[str]:
    """Stored classes, other than this run's, whose folders are no longer in the very data folder they were in."""
    place = str(here.root), here.dataset.NAME
    own = [name for name, there in stored.items() if (there["data_path"], there["dataset"]) == place]
    return [name for name in own if name not in chosen and not here.holds(name)]


def made_otherwise(path: Path, stored: dict[str, Any], wanted: dict[str, Any], remedy: str = REMEDY) -> str | None:
    """How what ``path`` holds was made, and what to do, where this run has another configuration; else None.

    Parameters
    ----------
    path : Path
    stored, wanted : dict
        Records of both; the first entry of `experiment.files.records.CONFIGURATION` that differs is told.
    remedy : str
        Ends the message.
    """
    for key in CONFIGURATION:
        there, here = _setting(stored, key), _setting(wanted, key)
        if there != here:
            there, here = _describe(key, there, here), _describe(key, here, there)
            words = f"{there}, this run has {here if here != there else 'other channels'}"
            return f"{str(path)!r} was made with {words}; {remedy}"
    return None


def of_other_data(
    path: Path, stored: Mapping[str, Mapping[str, Any]], here: DataFolder, chosen: Collection[str]
) -> str | None:
    """Which class that ``path`` holds is not of the data set at hand, or of its region; None where all are.

    Parameters
    ----------
    path : Path
    stored : mapping
        ``{class: record}``, each as `DataFolder.record` made it.
    here : DataFolder
    chosen : collection of str
        The classes of this run: in the same folder they may change, and are computed again. Of other classes the
        file names and the regions are compared there. Where a stored class lay in another folder, and there is one of
        its name here, the contents are compared.
    """
    another = "give another --save_path for each data set, or --refit to replace what is stored"
    for name, there in stored.items():
        holds, is_here = f"{str(path)!r} holds class {name!r}", there["data_path"] == str(here.root)
        if is_here and there["dataset"] != here.dataset.NAME:
            return f"{holds} of --dataset {there['dataset']}, not of {here.dataset.NAME}; {another}"
        differs = name not in chosen and there["file_names"] != here.file_names(name)
        if is_here and differs:
            return (
                f"{holds}, whose pictures in {str(here.root)!r} have changed since, or are gone; run it, too "
                "(--classes), or give another --save_path, or --refit to replace all that is stored"
            )
        if differs or not (is_here or here.is_unchanged(name, there)):  # 名字一样：看内容
            return f"{holds} of {there['data_path']!r}, which is not that of {str(here.root)!r}; {another}"
        if name not in chosen and not here.has_region(name, there):
            return (
                f"{holds}, scored with another --region or with none; run it, too (--classes), or give another "
                "--save_path, or --refit to replace all that is stored"
            )
    return None


def may_stay(obstacle: str | None, replace: bool) -> bool:
    """Whether what is stored may stay beside what this run makes: there is no obstacle.

    Raises
    ------
    UserError
        If there is one, and it is not to be replaced.
    """
    if obstacle and not replace:
        raise UserError(obstacle)
    return obstacle is None


def stored_state(path: Path, wanted: dict[str, Any], remedy: str = REMEDY) -> str:
    """What ``path`` holds for this run: ``none``, ``same``, ``other data`` or ``damaged``.

    Parameters
    ----------
    path : Path
        The pickle.
    wanted : dict
        The record that this run would write.
    remedy : str
        Ends the message.

    Raises
    ------
    UserError
        If it was made by another configuration or another program.
    """
    if not path.exists():
        return "none"
    stored = read_json(path.with_suffix(".json"))
    if stored is None:
        raise UserError(f"{str(path)!r} has no record of how it was made; {remedy}")
    if why := made_otherwise(path, stored, wanted, remedy):
        raise UserError(why)
    if stored.get("training_files") != wanted.get("training_files"):
        return "other data"
    return "same" if stored.get("pickle_bytes") == path.stat().st_size else "damaged"


def _setting(record: dict[str, Any], key: str) -> Any:
    """A record's entry as it is compared; of the layers their names."""
    value: Any = record.get(key)
    if key == "layers":
        return [layer["name"] for layer in value] if matches(value, [{"name": str}]) else ["unknown"]
    return value


def _describe(key: str, value: Any, other: Any) -> str:
    if isinstance(value, dict) and isinstance(other, dict):  # 只说不同的几项；默认的不写在记录里
        value, other = ({"protocol": "aligned", "bits": "all"} | each for each in (value, other))
        return f"{key} {', '.join(f'{k} {v}' for k, v in value.items() if k in other and v != other[k])}"
    if key == "layers":
        return f"layers {', '.join(value)}"
    if key == "reduction":
        return f"{value} reduction"
    if key == "dimensions":
        return f"{len(value) if isinstance(value, list) else 0} dimensions"
    return f"{key} {str(value)[:12] if key == 'weights_sha256' else value}"
