import pytest

from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing
from experiment.files import arrays
from experiment.files.folder import Store
from experiment.files.provenance import DataFolder
from experiment.report import results as report
from experiment.report.published import Reference, compare
from experiment.report.words import width
from system.errors import UserError

GROUPS = {"textures": ("t",), "objects": ("o", "p"), "all": ("o", "p", "t")}
FIGURES = {
    name: {"resnet18_image": 0.9, "resnet18_pixel": 0.95}
    for name in ("t", "o", "p", "all_textures", "all_objects", "all")
}
REFERENCE = Reference(GROUPS, FIGURES)


def row(image, pixel, published=None):
    plain = dict.fromkeys(arrays.METRICS) | {
        "image_rocauc": image,
        "pixel_rocauc": pixel,
        "pixel_aupro": pixel,
        "threshold": 0.5,
    }
    plain |= {"n_train": 2, "n_test": 2, "remarks": [], "image_threshold": None, "threshold_origin": "", "region": None}
    plain |= dict.fromkeys(arrays.INTERVALS)
    plain |= dict.fromkeys(("dataset", "data_path", "file_names", "training_files", "test_files"), "0")
    return compare(plain | {"seconds": {"total": 1.25}}, published)


def test_differences():
    assert compare(row(0.93, 0.94), {"image": 0.9, "pixel": 0.95})["difference"] == {
        "image": 0.03,
        "pixel": -0.01,
    }
    assert compare(row(None, 0.94), {"image": 0.9, "pixel": 0.95})["difference"]["image"] is None
    assert row(0.9, 0.9)["published"] is row(0.9, 0.9)["difference"] is None
    assert REFERENCE.of("t", "resnet18") == {"image": 0.9, "pixel": 0.95}
    assert REFERENCE.of("t", "vgg") is None and Reference(GROUPS, {}).of("t", "resnet18") is None


def test_averages_name_the_published_mean_only_for_all_its_classes():
    published = REFERENCE.of("t", "resnet18")
    rows = {"t": row(0.8, None, published), "o": row(0.9, 0.9, published)}
    averages = report.averages(rows, REFERENCE, "resnet18")
    assert averages["textures"]["image_rocauc"] == 0.8 and averages["textures"]["pixel_rocauc"] is None
    assert averages["textures"]["published"] == published and averages["textures"]["difference"]["pixel"] is None
    assert averages["textures"]["pixel_aupro"] is None and averages["all"]["pixel_aupro"] == 0.9
    assert averages["objects"]["published"] is None
    assert averages["all"]["image_rocauc"] == pytest.approx(0.85) and averages["all"]["classes"] == 2
    rows["p"] = row(0.9, 0.9, published)
    assert report.averages(rows, REFERENCE, "resnet18")["all"]["published"] == published
    assert report.averages({"x": row(1, 1)}, REFERENCE, "resnet18")["textures"] is None


def test_the_table_is_aligned():
    rows = {"t": row(0.8123456, None, {"image": 0.9, "pixel": 0.95}), "a_long_name": row(1.0, 0.5)}
    rows["法兰盘_左侧"] = row(1.0, 0.5)
    results = {"classes": rows, "averages": report.averages(rows, REFERENCE, "resnet18")}
    lines = report.table(results).splitlines()
    assert len({width(line) for line in lines}) == 1  # 终端里一个汉字占两格
    assert lines[2].split() == ["t", "0.8123", "0.900", "-0.0877", "–", "0.950", "–", "–", "–", "1.2"]
    assert lines[3].split() == ["a_long_name", "1.0000", "–", "–", "0.5000", "–", "–", "0.5000", "–", "1.2"]


def test_what_a_run_goes_on_with(tmp_path):
    store = Store(tmp_path, "resnet18")
    made = {
        "arch": "resnet18",
        "weights_sha256": "ab",
        "seed": 1,
        "dimensions": [1],
        "precision": "float32",
        "preprocessing": {},
        "layers": [{"name": "layer1"}],
        "reduction": "random",
    }
    here, there = (DataFolder(MVTecDataset, tmp_path / name, Preprocessing()) for name in ("here", "there"))
    own, foreign, place = (here, ["a", "b"]), (there, []), {"data_path": str(here.root), "dataset": "mvtec"}
    results = report.kept_results(store, {"rd": None}, made, *own, False)
    assert results["classes"] == {} and not results["complete"]
    results["classes"] = {"a": row(1.0, 1.0) | place, "b": row(0.5, 0.5) | place}
    results["run"] |= {"finished": ["a", "b"], "command": "python main.py"}
    store.write_results(results)
    store.write_arrays("a", {"x": 1})  # b 的文件不见了：要重做

    assert report.kept_results(store, {"rd": None}, made, *own, False)["run"]["finished"] == ["a"]
    unscored = {"classes": results["classes"] | {"b": row(None, None) | place | {"n_test": 0}}}
    store.write_results(results | unscored)  # 没有测试图片的一类本来就没有文件
    assert report.kept_results(store, {"rd": None}, made, *own, False)["run"]["finished"] == ["a", "b"]
    store.write_results(results)
    assert report.kept_results(store, {"rd": 5}, made, *own, False)["run"]["finished"] == []
    assert set(report.kept_results(store, {"rd": 5}, made, *own, False)["classes"]) == {"a", "b"}
    with pytest.raises(UserError, match=r"seed 1, this run has seed 2.*--refit"):
        report.kept_results(store, {}, made | {"seed": 2}, *own, False)
    replacing = report.kept_results(store, {}, made | {"seed": 2}, *own, True)  # 旧行留到新的一行行换上
    assert replacing["run"]["earlier"] == list(replacing["classes"]) == ["a", "b"]
    with pytest.raises(UserError, match=r"holds class 'a' of .*, which is not that of .*--refit"):
        report.kept_results(store, {}, made, *foreign, False)
    assert report.kept_results(store, {}, made, *foreign, True)["run"]["earlier"] == ["a", "b"]
    store.write_results(results | {"complete": True})
    assert report.kept_results(store, {"rd": None}, made, *own, False)["run"]["finished"] == []
