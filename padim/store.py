"""Everything that is read from or written to a result folder; imports no torch.

Every file appears under its name only when it is complete. Of files that belong together (a
pickle and its JSON; a class's maps, pictures and small arrays) the last one written is deleted
first, so that what is there always belongs together.
"""

import csv
import json
import os
import pickle
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# 读回特征文件只需要这几个名字：pickle 里别的任何东西都不会被执行
_ALLOWED = {
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "dtype"),
}

# 两次运行的特征可以互换的条件，按报错时检查的次序
CONFIGURATION = ("arch", "weights_sha256", "seed", "dimensions", "precision", "preprocessing")


class StoreError(ValueError):
    """A stored file that must not be overwritten or cannot be used; the message is one line."""


class DamagedError(StoreError):
    """A stored feature file that is truncated or holds something else: it must be made again."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, deleted on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write ``content`` as JSON; NaN is refused, since no other reader takes it."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        text = re.sub(r"\[\n[-+.,\deE\s]*\]", lambda m: " ".join(m[0].split()), text)  # 数列不必一数一行
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict | None:
    """The JSON object in ``path``, or None where there is no file or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_features(path: Path, mean: np.ndarray, covariance: np.ndarray, provenance: dict) -> None:
    """Pickle ``[mean, cov]`` in the thesis's order, and its JSON beside it.

    Parameters
    ----------
    path : Path
        ``….pkl``; the JSON gets the same name with ``.json``.
    mean : ndarray, (P, d) float32
    covariance : ndarray, (P, d, d) float32
        Symmetric, so that its transpose is the (d, d, P) array in Fortran order: protocol 5
        writes the memory as it stands, without a copy.
    provenance : dict
        What the features were made from.
    """
    record = path.with_suffix(".json")
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            pickle.dump([np.ascontiguousarray(mean.T), covariance.T], file, protocol=5)
        record.unlink(missing_ok=True)  # 新 pickle 写完才作废旧记录：写到一半失败，旧的一对仍在
    write_json(record, provenance | {"pickle_bytes": path.stat().st_size})


def read_features(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d) and covariance (P, d, d), float32 and writable.

    Raises
    ------
    DamagedError
        If the file is truncated or does not hold arrays of this shape.
    """
    try:
        with open(path, "rb") as file:
            mean, covariance = _Unpickler(file).load()
        shapes = mean.shape, covariance.shape, mean.dtype, covariance.dtype
    except OSError:
        raise
    except Exception as problem:  # 损坏的 pickle 能让解析器抛出任何类型
        raise DamagedError(f"{str(path)!r} is damaged ({' '.join(str(problem).split())[:100]})") from problem
    if shapes != ((dimensions, positions), (dimensions, dimensions, positions), np.float32, np.float32):
        raise DamagedError(
            f"{str(path)!r} holds arrays of shape {shapes[0]} and {shapes[1]}, not ({dimensions}, {positions}) …"
        )
    return np.ascontiguousarray(mean.T), covariance.T


def _describe(key: str, value: Any) -> str:
    if key == "dimensions":
        return f"{len(value or ())} dimensions"
    return f"{key} {value[:12] if key == 'weights_sha256' and value else value}"


def difference(stored: dict, wanted: dict) -> str | None:
    """The first difference in configuration, in words, or None."""
    for key in CONFIGURATION:
        if stored.get(key) != wanted[key]:
            there, here = _describe(key, stored.get(key)), _describe(key, wanted[key])
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
            maps = np.lib.format.open_memmap(maps_path, "w+", np.float32, shape)
            images = np.lib.format.open_memmap(images_path, "w+", np.uint8, (*shape, 3))
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
            If the file is damaged.
        """
        try:
            with np.load(self.arrays(name), allow_pickle=False) as file:
                loaded = {key: file[key] for key in file.files}
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
            raise StoreError(f"{str(self.arrays(name))!r} is damaged; delete it and score the class again") from problem
        return {k: None if v.shape == (0,) else v[()] for k, v in loaded.items()}

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
        run = results.get("run") if results else None
        whole = isinstance(run, dict) and {"options", "configuration", "finished"} <= run.keys()
        if not whole or not {"classes", "averages", "complete"} <= results.keys():
            raise StoreError(f"{str(self.results)!r} is no results file of this program; move it away")
        return results

    def write_results(self, results: dict) -> None:
        """Write the results as JSON, and their rows as CSV."""
        write_json(self.results, results)
        columns = ("image_rocauc", "pixel_rocauc", "threshold", "n_train", "n_test")
        nested = [(kind, level) for kind in ("published", "difference") for level in ("image", "pixel")]
        path = self.results.with_suffix(".csv")
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["class", *columns, "seconds", *map("_".join, nested)])
            for name, row in results["classes"].items():
                figures = [(row[kind] or {}).get(level) for kind, level in nested]
                writer.writerow([name, *(row[c] for c in columns), row["seconds"]["total"], *figures])
