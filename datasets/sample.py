"""A small procedural data set in the MVTec layout: one texture class, one object class.

程序画出的小数据集，MVTec 布局：一个纹理类，一个物体类。

``python -m datasets.sample --out DIR --train N --test N --size S`` writes it. Every picture is
drawn from a generator seeded by its own name, so the files do not depend on order or machine
load, and a larger set begins with the pictures of a smaller one. A file beside the classes tells
what code drew them.
"""

import hashlib
import os
import re
import shutil
import sys
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets import recipes
from datasets.recipes import CLASSES
from system.command import Parser, run
from system.errors import UserError
from system.resources import cores

MARK = "drawn_by.txt"
N_TRAIN, N_TEST, SIZE = 40, 18, 256  # 示例数据：每类的图片数，边长


def drawn_by() -> str:
    """What the file `MARK` holds of a set that this code drew: a digest of the code itself."""
    # 以文本读入：换行符因检出方式而异，不算改动
    sources = (Path(file).read_text(encoding="utf-8") for file in (recipes.__file__, __file__))
    return f"datasets/sample.py, {hashlib.sha256(''.join(sources).encode()).hexdigest()}\n"


class Drawn(NamedTuple):
    """How a class is drawn: by a recipe of `datasets.recipes`, so many pictures, of so many pixels a side."""

    recipe: str
    n_train: int
    n_test: int
    size: int


def _plan(n_train: int, n_test: int, kinds: list[str]) -> list[tuple[str, str, int]]:
    """(split, kind, index) of every picture: a third of the test pictures is good."""
    n_good = n_test // 3
    tests = [("test", "good", i) for i in range(n_good)]
    tests += [("test", kinds[i % len(kinds)], i // len(kinds)) for i in range(n_test - n_good)]
    return [("train", "good", i) for i in range(n_train)] + tests


def _write_picture(root: Path, name: str, drawn: Drawn, split: str, kind: str, index: int) -> None:
    recipe = CLASSES[drawn.recipe]
    rng = np.random.default_rng(zlib.crc32(f"{name}/{split}/{kind}/{index}".encode()))
    picture = recipe.draw(drawn.size, rng)
    if kind != "good":
        picture, mask = recipe.defects[kind](picture, rng)
        target = root / name / "ground_truth" / kind / f"{index:03d}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(target)
    target = root / name / split / kind / f"{index:03d}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)).save(target)


def write_sample(out: Path, n_train: int = N_TRAIN, n_test: int = N_TEST, size: int = SIZE) -> None:
    """Write both classes below ``out``, which appears only when it is complete.

    Parameters
    ----------
    out : Path
        The folder to make; it must not exist.
    n_train, n_test : int
        Pictures a class. A third of the test pictures is good, the rest is divided among three
        kinds of defect.
    size : int
        Side of the square pictures in pixels.

    Raises
    ------
    FileExistsError
        If ``out`` is there already.
    """
    write_classes(out, {name: Drawn(name, n_train, n_test, size) for name in CLASSES})


def write_classes(out: Path, classes: Mapping[str, Drawn]) -> None:
    """As `write_sample`, but classes of any names, each drawn as is said."""
    if out.exists():
        raise FileExistsError(f"{out} is there already")
    _remove_abandoned(out)
    partial = _partial(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        jobs = [
            (partial, name, drawn, *entry)
            for name, drawn in classes.items()
            for entry in _plan(drawn.n_train, drawn.n_test, sorted(CLASSES[drawn.recipe].defects))
        ]
        with ThreadPoolExecutor(cores()) as pool:
            done = pool.map(lambda job: _write_picture(*job), jobs)
            for _ in tqdm(done, desc=f"sample data | {out}", total=len(jobs), unit="image"):
                pass
        (partial / MARK).write_text(drawn_by(), encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def renew_sample(out: Path) -> None:
    """Have the default sample at ``out``: drawn if nothing is there, and again if an earlier version drew it.

    Raises
    ------
    UserError
        If something else is there.
    """
    if not os.path.lexists(out):
        write_sample(out)
        return
    mark = out / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == drawn_by():
        return
    if not _is_sample(out):
        raise UserError(
            f"{str(out)!r} is where the sample data goes, and something else is there; move it away "
            "(--data_path takes it wherever it is)"
        )
    print(f"{out}: an earlier version drew these pictures; drawing them again", flush=True)
    out.rename(_partial(out))  # 与写到一半的同名：write_sample 自会清除，中断也不留半个旧的
    write_sample(out)


def _is_sample(out: Path) -> bool:
    """Whether a folder holds both classes, and nothing but what `write_sample` writes."""
    layouts = [
        rf"{name}/(train/good|test/good|(test|ground_truth)/({'|'.join(recipe.defects)}))/\d+(_mask)?\.png"
        for name, recipe in CLASSES.items()
    ]
    is_own = re.compile("|".join([re.escape(MARK), *layouts])).fullmatch

    def is_foreign(path: Path) -> bool:
        return path.is_symlink() or not (path.is_dir() or is_own(path.relative_to(out).as_posix()))

    is_whole = all((out / name / "train" / "good").is_dir() for name in CLASSES)
    return is_whole and not out.is_symlink() and not any(map(is_foreign, out.rglob("*")))


def _partial(out: Path) -> Path:
    """Where this process writes ``out`` until it is complete."""
    return out.with_name(f"{out.name}.tmp{os.getpid()}")


def _remove_abandoned(out: Path) -> None:
    """Delete what a killed process left of its attempt at ``out``."""
    for partial in out.parent.glob(f"{out.name}.tmp[0-9]*") if os.name == "posix" else ():
        try:
            os.kill(int(partial.name.rpartition("tmp")[2]), 0)  # 信号 0：只问进程在不在
        except ProcessLookupError:
            shutil.rmtree(partial, ignore_errors=True)
        except (ValueError, OSError):
            pass


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status, see `system.command.run`."""
    parser = Parser(prog="python -m datasets.sample", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--train", type=int, default=N_TRAIN, help="training images a class (default %(default)s)")
    parser.add_argument("--test", type=int, default=N_TEST, help="test images a class (default %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="side in pixels (default %(default)s)")
    args = parser.parse_args(argv)

    def work() -> None:
        if args.train < 1 or args.test < 0 or args.size < 32:
            raise UserError("--train must be at least 1, --test at least 0, --size at least 32")
        try:
            write_sample(args.out, args.train, args.test, args.size)
        except FileExistsError as problem:
            raise UserError(f"{str(args.out)!r} is there already; remove it or give another --out") from problem
        print(f"wrote {args.out}: {', '.join(CLASSES)}, {args.train} training and {args.test} test images each")

    return run(work, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
