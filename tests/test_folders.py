"""Folders as people have them: what lies in a class's folder is read, or named."""

import json
import os

import pytest
from layouts import mvtec, picture
from PIL import Image

import main
from datasets.catalogue import find_classes
from datasets.check import check_class
from datasets.folder import SPLITS, FolderDataset
from datasets.images import DataError
from datasets.mvtec import MVTecDataset

FAST = [
    "--arch",
    "resnet18",
    "--weights",
    "random",
    "--num_workers",
    "0",
    "--resize",
    "40x36",
    "--crop",
    "0",
    "--rd",
    "5",
]


@pytest.fixture
def widget(tmp_path):
    """A complete class."""
    mvtec(tmp_path / "data")
    return tmp_path / "data/widget"


def splits(folder) -> list[FolderDataset]:
    return [MVTecDataset(folder.parent, folder.name, split) for split in SPLITS]


def remarks(out, name="widget") -> list[str]:
    return json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))["classes"][name]["remarks"]


def move(folder, names, place):
    """Files of a folder into one below it."""
    (folder / place).mkdir(parents=True)
    for name in names:
        (folder / name).rename(folder / place / name)


def test_folders_within_are_read(widget):
    """Training pictures, good and defective test pictures; a mask lies as its picture does."""
    move(widget / "train/good", ["002.png", "003.png"], "day 2/left")
    move(widget / "test/good", ["001.png"], "day 2")
    move(widget / "test/crack", ["001.png"], "day 2")
    with pytest.raises(DataError, match=r"add '.*ground_truth.crack.day 2.001_mask\.png'"):
        splits(widget)
    move(widget / "ground_truth/crack", ["001_mask.png"], "day 2")
    (widget / "train/good/.ipynb_checkpoints").mkdir()
    picture(widget / "train/good/.ipynb_checkpoints/000.png")
    train, _, test = splits(widget)
    assert train.names() == [f"train/good/{name}.png" for name in ("000", "001", "day 2/left/002", "day 2/left/003")]
    assert test.names() == [
        f"test/{name}.png" for name in ("crack/000", "crack/day 2/001", "good/000", "good/day 2/001")
    ]
    assert test.kinds == ["crack", "crack", "good", "good"] and all(test[i][2].any() for i in (0, 1))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_back_is_not_read_again(widget):
    (widget / "train/good/again").symlink_to(widget / "train", target_is_directory=True)
    assert len(splits(widget)[0]) == 4


def test_upper_and_lower_case_are_the_same(widget):
    for old, new in (("test/good", "test/Good"), ("train/good", "train/GOOD"), ("train", "Train"), ("test", "TEST"),
                     ("ground_truth/crack", "ground_truth/Crack"), ("ground_truth", "Ground_Truth")):  # fmt: skip
        (widget / old).rename(widget / new)
    assert "widget" in find_classes(MVTecDataset, widget.parent, ["widget"])
    train, _, test = splits(widget)
    assert len(train) == 4 and test.has_masks and test.kinds == ["good", "good", "crack", "crack"]
    check_class(MVTecDataset, widget.parent, "widget")


def test_remarks_are_said_once_and_kept(widget, tmp_path, capsys):
    for file in widget.rglob("*.png"):
        Image.open(file).resize((60, 40), 0).save(file)
    options = ["--data_path", str(widget), "--save_path", str(tmp_path / "out"), "--figures", "none", *FAST]
    assert main.main([*options, "--resize", "40", "--crop", "32"]) == 0
    (line,) = json.loads((tmp_path / "out/results_resnet18.json").read_text(encoding="utf-8"))["classes"]["widget"][
        "remarks"
    ]
    captured = capsys.readouterr()
    assert "cuts off 57 % of their area" in line
    assert captured.err.count(f"widget: {line}\n") == 1 and line not in captured.out
