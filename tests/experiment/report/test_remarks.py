"""What a run remarks on its classes, on the results page in Chinese."""

import re
import shutil
from pathlib import Path

import numpy as np
from layouts import SIZE, mvtec, picture, save
from PIL import Image
from plotting import script
from synthetic import write_results
from test_results_page import chromium, seen  # noqa: F401

from datasets.catalogue import DATASETS
from datasets.check import check_class, cut_off
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing
from experiment.files.provenance import DataFolder
from experiment.lots import choose, grouped, remarks
from padim.metrics import evaluate_maps


def remarked(data: Path) -> list[str]:
    """Every line that checks, left-out scores and the evaluation say of a class, said by the program itself."""
    rng, zeros = np.random.default_rng(0), np.zeros((4, 8, 8))
    maps, half = rng.random((4, 8, 8)).astype(np.float32), np.arange(4)[:, None, None] + zeros > 2
    lines = []
    for labels, masks in (([0, 0, 1, 1], None), ([1] * 4, None), ([0] * 4, zeros), ([0, 0, 0, 1], half)):
        lines += evaluate_maps(maps + np.array(labels)[:, None, None], np.array(labels), masks).remarks
    lines += evaluate_maps(maps, np.array([0, 1, 1, 1]), None).remarks
    cut = np.arange(64).reshape(8, 8) < 32
    for truth in (np.stack([zeros[0], zeros[0], cut, ~cut]), np.stack([zeros[0], zeros[0], ~cut, ~cut])):
        lines += evaluate_maps(maps, np.array([0, 0, 1, 1]), truth, region=cut).remarks
    names, alone = [f"train/good/{i // 20}/{i:03d}.png" for i in range(120)], rng.normal(20, 2, 120)
    higher, odd = alone + 5, alone + 30 * (np.arange(120) < 20)
    for by, scores in ((20, alone), (20, higher), (40, higher), ("folder", odd), ("one", alone + 40 * (alone > 22))):
        lines += remarks(grouped(names, "train/good", by), scores.tolist(), alone.tolist(), names)
    uneven = [names[0] if i < 70 else name for i, name in enumerate(names)]
    lines += remarks(grouped(uneven, "train/good", "folder"), alone.tolist(), alone.tolist(), uneven)
    lines += [choose(None, "x", each, "train/good")[1] for each in (names[:20], [*names[:20], "train/good/120.png"])]
    for layout in (mvtec, lambda root: mvtec(root / "turned")):
        layout(data)
    widget, turned = data / "widget", data / "turned/widget"
    for place in ("test/crack/notes.txt", "readme.txt"):
        (widget / place).write_bytes(b"x")
    for place in ("loose.png", "masks/0.png", "ground_truth/crack/9_mask.png"):
        picture(widget / place)
    save(widget / "ground_truth/crack/000_mask.png", np.zeros(SIZE[::-1], np.uint8))
    save(widget / "ground_truth/crack/001_mask.png", np.full(SIZE[::-1], 255, np.uint8))
    for i in range(2):
        save(turned / f"ground_truth/crack/{i:03d}_mask.png", rng.integers(0, 255, SIZE[::-1], np.uint8))
        with Image.open(turned / f"test/crack/{i:03d}.png") as each:
            each.load()
        exif = Image.Exif()
        exif[0x0112] = 3
        each.save(turned / f"test/crack/{i:03d}.png", exif=exif)
    for file in (turned / "train/good").iterdir():
        save(file, np.full(SIZE[::-1], 900, np.uint16))
        shutil.copy(file, turned / "test/good" / f"again_{file.name}")
    for folder in (widget, turned):
        found = check_class(MVTecDataset, folder.parent, folder.name)
        lines += found.remarks
        lines += DataFolder(MVTecDataset, folder.parent, Preprocessing()).repeated(folder.name)
    lines += [cut_off((300, 100), Preprocessing(), room) for room in (1, 9)]
    return [*lines, *(f"{each.LEFT_OUT}: 3" for each in DATASETS.values())]


def test_what_runs_remark_has_a_translation(seen, tmp_path):  # noqa: F811
    write_results(tmp_path / "results", "resnet18", ("grid",))
    assert script("results_page").main(["--result", str(tmp_path / "results")]) == 0
    lines = dict.fromkeys(filter(None, remarked(tmp_path / "data")))
    seen.show(tmp_path / "results", "#zh")
    for line in lines:
        chinese = seen.execute_script("return translated(arguments[0], REMARKS)", line)
        names = re.findall(r"'[^']*'|\w+/[\w/.]+(?: to \w+/[\w/.]+)?|--\w+(?: one)?|\d+x\d+", line)
        assert all(name in chinese for name in names), (line, chinese)
        for name in sorted(names, key=len, reverse=True):
            chinese = chinese.replace(name, "")
        assert not re.search(r"(?<![-\w])[a-z]\w+", chinese), (line, chinese)
    assert len(lines) > 30
