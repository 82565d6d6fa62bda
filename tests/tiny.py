"""A class of tiny drawn pictures, and what main.py stores of it within a second."""

from pathlib import Path

import main
from datasets.sample import write_sample

TINY = ["--arch", "resnet18", "--weights", "random", "--rd", "20", "--resize", "64", "--crop", "0", "--figures", "none"]


def drawn(root: Path, n_train: int) -> Path:
    """The folder of a class: so many training pictures and 6 test pictures, of 64×64."""
    write_sample(root, n_train=n_train, n_test=6, size=64)
    return root / "linen"


def fitted(data: Path, *options: str) -> Path:
    """The pickle of such a class, in a folder beside that of its data."""
    out = data.parent.parent / "out"
    assert main.main([*TINY, *options, "--data_path", str(data), "--save_path", str(out)]) == 0
    return out / "temp_resnet18" / "train_linen.pkl"
