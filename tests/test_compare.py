"""Whether one method is better: the tests' own words, tables and diagrams, from results of two methods and of more."""

import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plotting import script
from scipy.stats import friedmanchisquare, wilcoxon
from sklearn.metrics import roc_auc_score
from synthetic import FIFTEEN, write_results
from test_plot import check_pdf, checked  # noqa: F401

from experiment.files.folder import Store
from padim.uncertainty import Z, draws

KEYS = ("resnet18", "wide_resnet50_2", "spade_wide_resnet50_2")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    for seed, key in enumerate((*KEYS, "mahalanobis_ad_efficientnet_b4")):
        write_results(root, key, seed=seed)
    return root


def compare(out: Path, *files: Path, **options: str) -> int:
    words = [part for key, value in options.items() for part in (f"--{key}", value)]
    return script("compare").main([*map(str, files), "--out", str(out), *words])


def files(root: Path, *keys: str) -> list[Path]:
    return [root / f"results_{key}.json" for key in keys or KEYS]


def shifted(root: Path, out: Path, key: str, *, by: float) -> Path:
    """The same results with every ROC AUC lower by so much, and a little that is a class's own."""
    shutil.copytree(root, out)
    path = out / f"results_{key}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for i, row in enumerate(content["classes"].values()):
        for level in ("image_rocauc", "pixel_rocauc"):
            row[level] -= by + i * 1e-4
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def cells(text: str, heading: str) -> dict[str, list[str]]:
    """A section's table by the row's first cell."""
    lines = text.split(f"## {heading}\n")[1].split("## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.filterwarnings("error:.*(Glyph|layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("count", [2, 3])
def test_figure_and_words(root, tmp_path, language, count, checked):  # noqa: F811
    assert compare(tmp_path, *files(root, *KEYS[:count]), lang=language, dpi="100") == 0
    suffix = "_zh" if language == "zh" else ""
    assert {p.name for p in tmp_path.iterdir()} == {f"compare{suffix}.{kind}" for kind in ("png", "pdf", "md")}
    with Image.open(tmp_path / f"compare{suffix}.png") as picture:
        assert 300 < picture.width <= 730 and picture.height <= 930
    check_pdf(tmp_path / f"compare{suffix}.pdf", has_images=False)
    text = (tmp_path / f"compare{suffix}.md").read_text(encoding="utf-8")
    assert bool(re.search("[\u4e00-\u9fff]", text)) == (language == "zh")
    assert len(checked) == 1


def test_of_one_class_no_ranks_are_drawn(tmp_path, checked):  # noqa: F811
    for seed, key in enumerate(KEYS):
        write_results(tmp_path, key, ("widget",), seed)
    assert compare(tmp_path, *files(tmp_path), format="png") == 0
    for axes in checked[0].axes:
        assert [text.get_text() for text in axes.get_yticklabels()] == ["WideResNet50", "SPADE (WideResNet50)"]
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "A test over classes needs two classes at least." in text and " 1 classes differ" not in text
    for axes, level in zip(checked[0].axes, ("image", "pixel"), strict=True):
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        row = cells(text, f"{level} ROC AUC")["widget"]
        assert marks == pytest.approx([float(cell.split()[0]) for cell in row[3:]], abs=5e-5)


def test_two_methods(root, tmp_path):
    """Every difference is that of the rows, and its interval that of pictures drawn for both."""
    assert compare(tmp_path, *files(root, *KEYS[:2]), format="png") == 0
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    stores = [Store(root, key) for key in KEYS[:2]]
    rows = [store.read_results()["classes"] for store in stores]
    for name in ("wood", "zipper"):
        arrays, maps = [store.read_arrays(name) for store in stores], [np.load(store.maps(name)) for store in stores]
        wanted = rows[0][name]["pixel_rocauc"] - rows[1][name]["pixel_rocauc"]
        masks, drawn = arrays[0]["masks"], draws(arrays[0]["labels"])[:100]
        found = cells(text, "pixel ROC AUC")[name]
        assert [float(cell) for cell in found[:2]] == pytest.approx([r[name]["pixel_rocauc"] for r in rows], abs=5e-5)
        difference, low, high = map(float, re.findall(r"[-+]\d\.\d+", found[2]))
        assert difference == pytest.approx(wanted, abs=5e-5) and low < difference < high
        differences = []
        for times in drawn:
            labels, one, two = (np.repeat(each, times, axis=0).ravel() for each in (masks, *maps))
            differences.append(roc_auc_score(labels, one) - roc_auc_score(labels, two))
        inside = np.mean((np.array(differences) >= low) & (np.array(differences) <= high))
        assert 0.88 < inside <= 1
    pixel = [[row[name]["pixel_rocauc"] for name in FIFTEEN] for row in rows]
    assert f"p = {wilcoxon(*pixel).pvalue:.2g}" in text and "No difference is shown" in text


def test_an_image_level_difference_is_delong_s(root, tmp_path):
    assert compare(tmp_path, *files(root, *KEYS[:2]), format="png") == 0
    found = cells((tmp_path / "compare.md").read_text(encoding="utf-8"), "image ROC AUC")
    name = next(name for name, row in found.items() if "[" in row[-1])
    parts = []
    for key in KEYS[:2]:
        arrays = Store(root, key).read_arrays(name)
        high, low = (arrays["image_scores"][arrays["labels"] == label] for label in (1, 0))
        parts.append((high[:, None] > low) + (high[:, None] == low) / 2)
    kernel = parts[0] - parts[1]
    error = np.sqrt(kernel.mean(1).var(ddof=1) / len(kernel) + kernel.mean(0).var(ddof=1) / kernel.shape[1])
    wanted = kernel.mean() + np.array([0, -Z, Z]) * error
    assert list(map(float, re.findall(r"[-+]\d\.\d+", found[name][-1]))) == pytest.approx(wanted, abs=1e-4)
    alike = next(row for row in found.values() if row[:2] == ["1.0000", "1.0000"])
    assert alike[-1] == "+0.0000 –"  # 无从得知，不是 [0, 0]


def test_a_difference_that_is_there(root, tmp_path):
    worse = shifted(root, tmp_path / "seed7", "resnet18", by=0.02)
    assert compare(tmp_path / "out", root / "results_resnet18.json", worse, format="png") == 0
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert f"The difference leans towards ResNet18 ({root.name})." in text and "ResNet18 (seed7)" in text
    assert compare(tmp_path / "out", worse, root / "results_resnet18.json", format="png") == 0
    assert f"leans towards ResNet18 ({root.name})." in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_more_than_two(root, tmp_path):
    worse = [shifted(root, tmp_path / f"worse{i}", "resnet18", by=0.01 * i) for i in (1, 2, 3)]
    assert compare(tmp_path, root / "results_resnet18.json", *worse, format="png", lang="en") == 0
    text = (tmp_path / "compare.md").read_text(encoding="utf-8").split("## pixel ROC AUC")[1]
    content = [json.loads(p.read_text(encoding="utf-8"))["classes"] for p in (root / "results_resnet18.json", *worse)]
    areas = [[row["pixel_rocauc"] for row in rows.values()] for rows in content]
    statistic, p = friedmanchisquare(*areas)
    assert f"χ² = {statistic:.2f}, p = {p:.2g}" in text
    # Demšar 的表 5：α = 0.05、四个方法的 q 是 2.569；15 类
    width = 2.569 * np.sqrt(4 * 5 / (6 * 15))
    assert f"critical difference is {width:.2f}" in text
    names = [f"ResNet18 ({p.parent.name})" for p in (root / "results_resnet18.json", *worse)]
    for (i, one), (k, other) in combinations(enumerate(names), 2):  # 名次恰为 1 到 4
        assert (f"{one} ranks above {other}" in text) == (k - i >= width)


def test_few_classes_show_nothing(tmp_path):
    for seed, key in enumerate(KEYS[:2]):
        write_results(tmp_path, key, ("wood", "tile", "grid"), seed=seed)
    assert compare(tmp_path, *files(tmp_path, *KEYS[:2]), format="png") == 0
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "Only 3 classes differ" in text and "smallest p is 0.25" in text and "Nothing follows" in text


def test_a_method_without_maps_and_classes_that_not_all_have(root, tmp_path):
    shutil.copytree(root, tmp_path / "some")
    path = tmp_path / "some" / "results_resnet18.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["classes"]["wood"]
    path.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "some" / "scores_resnet18" / "tile.npz").unlink()  # 只有结果文件也能比，只是没有区间
    other = root / "results_mahalanobis_ad_efficientnet_b4.json"
    assert compare(tmp_path / "out", path, other, format="png") == 0
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "pixel ROC AUC" not in text and "Not in all of the results: wood." in text
    assert cells(text, "image ROC AUC")["tile"][-1].endswith("–")


def test_mistakes(root, tmp_path, capsys):
    one, other = files(root, *KEYS[:2])

    def refused(*given: Path) -> str:
        assert compare(tmp_path / "out", *given) == 2
        assert not (tmp_path / "out").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "two results files or more" in refused(one)
    assert "named twice" in refused(one, one)
    assert "is no results file" in refused(one, tmp_path / "results_x.json")
    assert "is no results file" in refused(one, root / "scores_resnet18" / "wood.npz")
    path = shifted(root, tmp_path / "changed", "wide_resnet50_2", by=0)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["classes"]["tile"]["test_files"] = "1"
    path.write_text(json.dumps(content), encoding="utf-8")
    line = refused(one, path)
    assert "different test pictures of tile" in line and line.endswith("a comparison needs the same test pictures")
    content["classes"] = {"other": content["classes"]["wood"]}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "no class in common" in refused(other, path)
