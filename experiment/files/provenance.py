"""Whether stored results are of the data at hand and made alike: one table never holds two data sets.

已存的结果是否出自手头的数据、以同样的配置得来：一张表里绝不混有两个数据集。
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from datasets.folder import FolderDataset
from datasets.images import DataError
from datasets.preprocessing import Preprocessing
from experiment.files.gaussians import difference
from experiment.files.unpickle import REMEDY
from system.errors import UserError


class DataFolder:
    """The classes below a data folder, and what identifies them; no file is hashed twice.

    Parameters
    ----------
    dataset : type of FolderDataset
        The data set that lies there.
    root : Path
        The folder that holds the classes.
    preprocessing : Preprocessing
    """

    def __init__(self, dataset: type[FolderDataset], root: Path, preprocessing: Preprocessing):
        self.dataset, self.root, self.preprocessing = dataset, root.resolve(), preprocessing
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


def gone(stored: Mapping[str, Mapping[str, Any]], here: DataFolder, chosen: Collection[str]) -> list[str]:
    """Stored classes, other than this run's, whose folders are no longer in the very data folder they were in."""
    place = str(here.root), here.dataset.NAME
    own = [name for name, there in stored.items() if (there["data_path"], there["dataset"]) == place]
    return [name for name in own if name not in chosen and not here.holds(name)]


def check_same_data(
    stored: Mapping[str, Mapping[str, Any]], here: DataFolder, chosen: Collection[str], path: Path
) -> None:
    """Raise unless stored classes are of the data set at hand.

    Parameters
    ----------
    stored : mapping
        ``{class: record}``, each as `DataFolder.record` made it.
    here : DataFolder
    chosen : collection of str
        The classes of this run: in the same folder they may change, and are computed again. Of other classes the
        file names are compared there. Where a stored class lay in another folder, and there is one of its name
        here, the contents are compared.
    path : Path
        What holds them, for the message.

    Raises
    ------
    UserError
        The message names both folders, or both data sets of one folder.
    """
    for name, there in stored.items():
        if there["data_path"] == str(here.root) and there["dataset"] != here.dataset.NAME:
            raise UserError(
                f"{str(path)!r} holds class {name!r} of --dataset {there['dataset']}, not of {here.dataset.NAME}; give "
                "another --save_path for each data set, or --refit to replace what is stored"
            )
        differs = name not in chosen and there["file_names"] != here.file_names(name)
        if there["data_path"] != str(here.root) and not differs:  # 名字一样：看内容
            differs = not here.is_unchanged(name, there)
        if differs and there["data_path"] == str(here.root):
            raise UserError(
                f"{str(path)!r} holds class {name!r}, whose pictures in {str(here.root)!r} have changed since, or are "
                "gone; run it, too (--classes), or give another --save_path, or --refit to replace all that is stored"
            )
        if differs:
            raise UserError(
                f"{str(path)!r} holds class {name!r} of {there['data_path']!r}, which is not that of "
                f"{str(here.root)!r}; give another --save_path for each data set, or --refit to replace what is stored"
            )


def may_stay(
    path: Path,
    made_with: dict[str, Any],
    configuration: dict[str, Any],
    check_data: Callable[[], None],
    replace: bool,
) -> bool:
    """Whether figures that are stored may stand beside those of this run.

    Parameters
    ----------
    path : Path
        Their file, for the message.
    made_with, configuration : dict
        What they were made with, and what this run has.
    check_data : callable
        Raises UserError unless they are of the data set at hand.
    replace : bool
        Drop what may not stay instead of refusing.

    Raises
    ------
    UserError
        If they may not, and ``replace`` is not set.
    """
    try:
        if words := difference(made_with, configuration):
            raise UserError(f"{str(path)!r} was made with {words}; {REMEDY}")
        check_data()
    except UserError:
        if not replace:
            raise
        return False
    return True
