"""Everything that is read from or written to a result folder; imports no torch.

Every file appears under its name only when it is complete. Of files that belong together (a
pickle and its JSON; a class's maps, pictures and small arrays) the last one written is first deleted,
or rewritten to say that it vouches for nothing, so that what is there always belongs together.
"""

import csv
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from padim import features, files
from padim.files import read_json, replacing, write_json
from padim.records import UnreadableError, is_results, is_studies, matches, parse_arrays, wrong_array
from padim.unpickle import ForeignError, UnpickleError

_HEADER = 4096  # 一个 .npy 文件头的字节数，只多不少

# 两次运行的特征可以互换的条件，按报错时检查的次序
CONFIGURATION = ("arch", "weights_sha256", "layers", "reduction", "seed", "dimensions", "precision", "preprocessing")


class StoreError(ValueError):
    """A stored file that must not be overwritten or cannot be used; the message is one line."""


class DamagedError(StoreError):
    """A stored feature file that is truncated or holds something else: it must be made again."""


def components_path(path: Path) -> Path:
    """Where the projection that belongs to the pickle ``path`` is kept."""
    return path.with_name(f"{path.stem}_components.npy")


def write_features(
    path: Path,
    mean: np.ndarray,
    covariance: np.ndarray,
    provenance: dict,
    components: np.ndarray | None = None,
    progress: features.Progress | None = None,
) -> None:
    """Pickle ``[mean, cov]`` in the thesis's order, and its JSON beside it.

    Parameters
    ----------
    path : Path
        ``….pkl``; the JSON gets the same name with ``.json``.
    mean : ndarray, (P, d) float32
    covariance : ndarray, (P, d, d) float32
    provenance : dict
        What the features were made from.
    components : ndarray, (d, t_d) float32, optional
        The projection onto principal components, for ``train_{class}_components.npy``.
    progress : padim.features.Progress, optional
        Stopped, it ends with `padim.features.AbortedError` and changes nothing.
    """
    record = path.with_suffix(".json")
    with ExitStack() as stack:
        temporary = stack.enter_context(replacing(path, sync=False))
        if components is not None:
            with open(stack.enter_context(replacing(components_path(path))), "wb") as file:
                np.save(file, components)
        features.dump(mean, covariance, temporary, progress or features.Progress())
        # 新 pickle 写完才作废旧记录：写到一半失败，旧的一对仍在；改名前后被杀，这条记录说明没有相配的 pickle
        write_json(record, provenance | {"pickle_bytes": None})
        if components is None:
            components_path(path).unlink(missing_ok=True)
    write_json(record, provenance | {"pickle_bytes": path.stat().st_size})


def read_features(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d) and covariance (P, d, d), float32 and writable.

    Raises
    ------
    DamagedError
        If the file is truncated, holds anything else than arrays of this shape, or their numbers are
        no Gaussians'. Files of other programs are read too: protocols 2 to 5, numpy 1 and 2, float32
        and float64, C and Fortran order.
    """
    with reading(path):
        return features.load(path, positions, dimensions)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what is wrong with the pickle ``path`` into a `DamagedError` that names it.

    A pickle that wants something called is no damaged one of this program: it is a plain `StoreError`, and nothing
    replaces it unasked.
    """
    try:
        yield
    except ForeignError as problem:
        raise StoreError(
            f"{str(path)!r} is no file of this program ({problem}) and is left alone; move it away, or give "
            "another --save_path, or --refit to replace it"
        ) from problem
    except UnpickleError as problem:
        raise DamagedError(f"{str(path)!r} is damaged or foreign ({problem})") from problem


def read_components(path: Path, dimensions: int, channels: int) -> np.ndarray:
    """The projection (d, t_d) float32 that belongs to the pickle ``path``.

    Raises
    ------
    DamagedError
        If it is not there or not of this shape.
    """
    beside = components_path(path)
    size = 4 * dimensions * channels
    try:
        whole = size < beside.stat().st_size < size + _HEADER  # 大得多的文件不必读
        components = parse_arrays(beside.read_bytes()) if whole else None
    except FileNotFoundError as problem:
        raise DamagedError(f"{str(beside)!r} is missing") from problem
    except UnreadableError as problem:
        raise DamagedError(f"{str(beside)!r} is damaged") from problem
    sound = isinstance(components, np.ndarray) and components.dtype == np.float32
    if not sound or components.shape != (dimensions, channels) or not np.isfinite(components).all():
        raise DamagedError(f"{str(beside)!r} is no projection of {channels} channels onto {dimensions}")
    return components


def _setting(record: dict, key: str) -> Any:
    """A record's entry as it is compared; of the layers their names."""
    value = record.get(key)
    if key == "layers" and value is not None:
        return [layer["name"] for layer in value] if matches(value, [{"name": str}]) else ["unknown"]
    return "random" if key == "reduction" and value is None else value


def _describe(key: str, value: Any, other: Any) -> str:
    if isinstance(value, dict) and isinstance(other, dict):  # 只说不同的几项
        value, other = ({"protocol": "aligned"} | each for each in (value, other))
        return f"{key} {', '.join(f'{k} {v}' for k, v in value.items() if k in other and v != other[k])}"
    if key == "layers":
        return f"layers {', '.join(value)}"
    if key == "reduction":
        return f"{value} reduction"
    if key == "dimensions":
        return f"{len(value) if isinstance(value, list) else 0} dimensions"
    return f"{key} {str(value)[:12] if key == 'weights_sha256' else value}"


def difference(stored: dict, wanted: dict) -> str | None:
    """The first difference in configuration, in words, or None."""
    for key in CONFIGURATION:
        there, here = _setting(stored, key), _setting(wanted, key)
        if key == "layers" and None in (there, here):  # 记录里还没有这一项时，各层是默认的；通道仍要比
            continue
        if there != here:
            there, here = _describe(key, there, here), _describe(key, here, there)
            return f"{there}, this run has {here if here != there else 'other channels'}"
    return None


def stored_features(path: Path, wanted: dict) -> str:
    """What ``path`` holds for this run: ``none``, ``same``, ``other data`` or ``damaged``.

    Parameters
    ----------
    path : Path
        The pickle.
    wanted : dict
        The provenance that this run would write.

    Raises
    ------
    StoreError
        If it was made by another configuration or another program.
    """
    if not path.exists():
        return "none"
    remedy = "give another --save_path, or --refit to replace it"
    stored = read_json(path.with_suffix(".json"))
    if stored is None:
        raise StoreError(f"{str(path)!r} has no record of how it was made; {remedy}")
    if words := difference(stored, wanted):
        raise StoreError(f"{str(path)!r} was made with {words}; {remedy}")
    if stored.get("training_files") != wanted.get("training_files"):
        return "other data"
    return "same" if stored.get("pickle_bytes") == path.stat().st_size else "damaged"


@dataclass(frozen=True)
class Store:
    """The files of one architecture below ``root`` (``--save_path``)."""

    root: Path
    arch: str

    def features(self, name: str) -> Path:
        """The pickled training features of a class."""
        return self.root / f"temp_{self.arch}" / f"train_{name}.pkl"

    def maps(self, name: str) -> Path:
        """Raw maps, (N, H, W) float32."""
        return self.root / f"scores_{self.arch}" / f"{name}_maps.npy"

    def images(self, name: str) -> Path:
        """Cropped pictures, (N, H, W, 3) uint8."""
        return self.root / f"scores_{self.arch}" / f"{name}_images.npy"

    def arrays(self, name: str) -> Path:
        """The small arrays of a class's test set."""
        return self.root / f"scores_{self.arch}" / f"{name}.npz"

    def picture(self, name: str, index: int) -> Path:
        """A localization figure."""
        return self.root / f"pictures_{self.arch}" / f"{name}_{index}.png"

    @property
    def roc_curve(self) -> Path:
        return self.root / f"roc_curve_{self.arch}.png"

    @property
    def results(self) -> Path:
        return self.root / f"results_{self.arch}.json"

    @property
    def ablation(self) -> Path:
        return self.root / f"ablation_{self.arch}.json"

    def written(self) -> list[tuple[str, Path]]:
        """What is there after a run, and where."""
        candidates = [
            ("training features", self.features("").parent),
            ("anomaly maps and scores", self.arrays("").parent),
            ("localization figures", self.picture("", 0).parent),
            ("ROC curves", self.roc_curve),
            ("results", self.results),
            ("results as a table", self.results.with_suffix(".csv")),
        ]
        return [(what, path) for what, path in candidates if path.exists()]

    def check_writable(self) -> None:
        """Raise OSError unless a file can be made below ``root``; what was not there is not left."""
        made = [p for p in (self.root, *self.root.parents) if not p.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        finally:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run that writes this architecture's files; what killed runs left behind is deleted.

        Raises
        ------
        StoreError
            If another run is writing them.
        """
        places = [(p.parent, "") for p in (self.features(""), self.arrays(""), self.picture("", 0))]
        places.append((self.root, f"_{self.arch}."))
        try:
            with files.lock(self.root / f".lock_{self.arch}"), files.without_leftovers(places):
                yield
        except files.LockedError as problem:
            raise StoreError(f"{problem}; wait until it has ended, or give another --save_path") from problem

    def check_there(self) -> None:
        """Raise StoreError if the folder that `locked` holds was deleted or replaced meanwhile."""
        if not (self.root / f".lock_{self.arch}").exists():
            raise StoreError(f"{str(self.root)!r} was deleted or replaced during the run; see --save_path")

    def check_room(self, name: str, positions: int, dimensions: int) -> None:
        """Raise StoreError unless the disk has room for a class's pickle, beside the one that it may replace."""
        needed = 4 * positions * dimensions * (dimensions + 1)
        if (room := files.free_room(path := self.features(name))) < needed:
            raise StoreError(
                f"{str(path)!r} needs {files.size(needed)}, and {files.size(room)} are free there; "
                "make room, give another --save_path, or --no_features"
            )

    def clear_pictures(self, name: str) -> None:
        """Delete a class's localization figures: they belong to scores that are being replaced."""
        folder = self.picture(name, 0).parent
        for path in folder.iterdir() if folder.is_dir() else ():
            if re.fullmatch(re.escape(name) + r"_\d+\.png", path.name):
                path.unlink()

    def clear_scores(self, name: str) -> None:
        """Delete a class's scores and figures, the small arrays first."""
        for path in (self.arrays(name), self.maps(name), self.images(name)):
            path.unlink(missing_ok=True)
        self.clear_pictures(name)

    @contextmanager
    def score_files(self, name: str, shape: tuple[int, int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Maps (N, H, W) float32 and pictures (N, H, W, 3) uint8 to fill; kept if no error occurs."""
        self.arrays(name).unlink(missing_ok=True)
        with replacing(self.maps(name)) as maps_path, replacing(self.images(name)) as images_path:
            maps = files.allocate(maps_path, np.float32, shape)
            images = files.allocate(images_path, np.uint8, (*shape, 3))
            try:
                yield maps, images
            finally:
                for array in (maps, images):  # Windows 不许改名仍映射着的文件
                    array.flush()
                    array._mmap.close()

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write the small arrays; None becomes an empty array, which `read_arrays` undoes."""
        with replacing(self.arrays(name)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **{k: np.empty(0) if v is None else v for k, v in arrays.items()})

    def read_arrays(self, name: str) -> dict[str, Any] | None:
        """The small arrays as written, or None where the class has none.

        Raises
        ------
        StoreError
            If the file is damaged, or an array is not of its type and shape, or not finite.
        """
        path, remedy = self.arrays(name), "delete it and score the class again"
        try:
            loaded = parse_arrays(path.read_bytes())
        except FileNotFoundError:
            return None
        except UnreadableError as problem:
            raise StoreError(f"{str(path)!r} is damaged; {remedy}") from problem
        if isinstance(loaded, np.ndarray):
            raise StoreError(f"{str(path)!r} holds one array, not a class's; {remedy}")
        arrays = {k: None if v.shape == (0,) else v[()] for k, v in loaded.items()}
        if key := wrong_array(arrays):
            raise StoreError(f"{str(path)!r} is damaged or foreign: {key!r} is not what main.py writes; {remedy}")
        return arrays

    def read_results(self) -> dict | None:
        """The results as written, or None where there are none.

        Raises
        ------
        StoreError
            If the file holds something else.
        """
        results = read_json(self.results)
        if results is None and not self.results.exists():
            return None
        if not is_results(results):
            raise StoreError(f"{str(self.results)!r} is no results file of this program; move it away")
        return results

    def read_studies(self) -> dict | None:
        """The file of studies as written, or None where there is none.

        Raises
        ------
        StoreError
            If the file holds something else.
        """
        content = read_json(self.ablation)
        if content is None and not self.ablation.exists():
            return None
        if not is_studies(content):
            raise StoreError(f"{str(self.ablation)!r} is no file of padim.ablation, or is damaged; move it away")
        return content

    def write_results(self, results: dict) -> None:
        """Write the results as JSON, and their rows as CSV."""
        write_json(self.results, results)
        columns = ("image_rocauc", "pixel_rocauc", "pixel_aupro", "threshold", "n_train", "n_test")
        nested = [(kind, level) for kind in ("published", "difference") for level in ("image", "pixel")]
        path = self.results.with_suffix(".csv")
        with replacing(path) as temporary, open(temporary, "w", newline="", **files.TEXT) as file:
            writer = csv.writer(file)
            writer.writerow(["class", *columns, "seconds", *map("_".join, nested)])
            for name, row in results["classes"].items():
                figures = [(row[kind] or {}).get(level) for kind, level in nested]
                writer.writerow([name, *(row.get(c) for c in columns), row["seconds"]["total"], *figures])
