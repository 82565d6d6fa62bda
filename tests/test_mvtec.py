import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from torchvision import transforms

from datasets.catalogue import find_classes
from datasets.check import check_class
from datasets.images import DataError
from datasets.mvtec import CLASSES, OBJECTS, TEXTURES, MVTecDataset
from datasets.preprocessing import to_pictures
from experiment.report.published import published
from system.errors import UserError


def picture(path, size=(40, 30), value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


@pytest.fixture
def own(tmp_path):
    """A class with odd names, suffixes and sizes."""
    folder = tmp_path / "widget"
    picture(folder / "train/good/a.png")
    picture(folder / "train/good/b.JPG", (300, 280))
    picture(folder / "test/good/c.bmp", (64, 500))
    picture(folder / "test/dent/one [1].png")
    picture(folder / "test/dent/two.tif")
    picture(folder / "ground_truth/dent/one [1]_mask.png", value=1)
    picture(folder / "ground_truth/dent/two.bmp", value=255)
    (folder / "test/dent/notes.txt").write_text("not a picture")
    (folder / "test/readme.md").write_text("not a folder")
    picture(folder / "test/.ipynb_checkpoints/one.png")
    picture(tmp_path / ".trash/train/good/a.png")
    return tmp_path


def test_the_fifteen_classes():
    assert len(CLASSES) == 15 and set(CLASSES) == set(TEXTURES) | set(OBJECTS)
    table = published(True).metrics
    assert set(table) == set(CLASSES) | {"all_textures", "all_objects", "all"}
    assert table["hazelnut"] == {
        "resnet18_image": 0.841, "wide_resnet50_2_image": 0.933,
        "resnet18_pixel": 0.979, "wide_resnet50_2_pixel": 0.979,
        "spade_wide_resnet50_2_image": 0.881, "spade_wide_resnet50_2_pixel": 0.985,
        "mahalanobis_ad_efficientnet_b4_image": 0.986,
    }  # fmt: skip


def test_published_figures_are_the_shared_ones(shared):
    table = published(True).metrics
    for file, ours in (("published.csv", slice(4)), ("published_predecessors.csv", slice(4, None))):
        for row in (shared / file).read_text(encoding="utf-8").split()[1:]:
            name, *values = row.split(",")
            assert [float(v) for v in values] == list(table[name].values())[ours]


def test_any_folder_in_the_layout(own):
    assert find_classes(MVTecDataset, own) == ["widget"]
    test = MVTecDataset(own, "widget", "test")
    assert test.names() == ["test/dent/one [1].png", "test/dent/two.tif", "test/good/c.bmp"]
    assert test.labels.tolist() == [1, 1, 0] and test.kinds == ["dent", "dent", "good"]
    assert [[p.name for p in masks] for masks in test.masks] == [["one [1]_mask.png"], ["two.bmp"], []]
    for image, label, mask in test:
        assert image.shape == (3, 224, 224) and image.dtype == np.float32 and image.flags.c_contiguous
        assert type(label) is np.int64
        assert mask.shape == (1, 224, 224) and mask.dtype == np.uint8 and int(mask.sum()) == int(label) * 224 * 224
    check_class(MVTecDataset, own, "widget")


def test_classes_are_found_or_named(own):
    picture(own / "bottle/train/good/a.png")
    (own / "no_class").mkdir()
    assert find_classes(MVTecDataset, own) == ["bottle"]  # MVTec 的类别优先
    assert find_classes(MVTecDataset, own, ["widget", "bottle", "widget"]) == ["widget", "bottle"]
    with pytest.raises(UserError, match=r"'no_class'.*found: bottle, widget.*--classes"):
        find_classes(MVTecDataset, own, ["no_class"])
    with pytest.raises(UserError, match=r"no data folder.*--data_path"):
        find_classes(MVTecDataset, own / "absent")
    with pytest.raises(UserError, match="no class"):
        find_classes(MVTecDataset, own / "no_class")
    with pytest.raises(UserError, match="no class"):
        find_classes(MVTecDataset, own / "widget")


def test_transforms_are_the_published_ones(shared):
    test = MVTecDataset(shared / "mvtec", "hazelnut", "test")
    index = test.names().index("test/crack/000.png")
    image, label, mask = test[index]
    source = Image.open(test.files[index]).convert("RGB")
    wanted = transforms.Compose([
        transforms.Resize(256, Image.Resampling.LANCZOS), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])(source)  # fmt: skip
    np.testing.assert_array_equal(image, wanted.numpy())
    assert label == 1 and 0 < mask.sum() < mask.size
    crop = np.asarray(source.resize((256, 256), Image.Resampling.LANCZOS).crop((16, 16, 240, 240)))
    np.testing.assert_array_equal(to_pictures(image[None])[0], crop)


def test_masks_are_cropped_like_their_pictures(tmp_path):
    """A defect painted into a large oblong picture lands on the same pixels in both."""
    values = np.zeros((500, 900), np.uint8)
    values[200:280, 400:480] = 255
    for path in ("x/test/dent/a.png", "x/ground_truth/dent/a_mask.png"):
        target = tmp_path / path
        target.parent.mkdir(parents=True)
        Image.fromarray(values).save(target)
    image, _, mask = MVTecDataset(tmp_path, "x", "test")[0]
    bright = to_pictures(image[None])[0, ..., 0] > 127
    assert (bright != (mask[0] > 0)).mean() < 0.005 and bright.sum() > 1000


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: shutil.rmtree(c / "ground_truth/dent"), r"no mask for .*one \[1\]\.png"),
        (lambda c: picture(c / "ground_truth/dent/two.bmp", (30, 40)), r"two\.bmp.* is 30x40, its picture 40x30"),
        (lambda c: (c / "train/good/b.JPG").unlink(), "a single training picture.*at least two"),
        (lambda c: [p.unlink() for p in (c / "train/good").iterdir()], r"no training pictures in .*good"),
        (lambda c: (c / "test/good/c.bmp").write_text("?"), r"cannot read picture .*c\.bmp"),
        (lambda c: (c / "train/good/a.png").write_bytes(b""), r"cannot read picture .*a\.png"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_decoded(own, spoil, message):
    spoil(own / "widget")
    with pytest.raises(UserError, match=message):
        check_class(MVTecDataset, own, "widget")


def test_no_ground_truth_folder_and_no_test_folder(own):
    shutil.rmtree(own / "widget/ground_truth")
    check_class(MVTecDataset, own, "widget")
    test = MVTecDataset(own, "widget", "test")
    assert not test.has_masks and test.masks == [()] * 3 and test.labels.sum() == 2
    shutil.rmtree(own / "widget/test")
    check_class(MVTecDataset, own, "widget")
    assert len(MVTecDataset(own, "widget", "test")) == 0


def test_a_class_that_is_not_in_order_can_be_told_from_other_mistakes(own):
    """experiment/ goes on without such a class: `DataError`, and nothing wider."""
    shutil.rmtree(own / "widget/ground_truth/dent")
    with pytest.raises(DataError, match="no mask"):
        MVTecDataset(own, "widget", "test")
    with pytest.raises(UserError) as caught:
        find_classes(MVTecDataset, own / "absent")
    assert not isinstance(caught.value, DataError)


def test_the_fingerprint_is_of_names_and_contents(own):
    first = MVTecDataset(own, "widget", "train").fingerprint()
    target = own / "widget/train/good/a.png"
    content = target.read_bytes()
    picture(target, value=129)
    assert MVTecDataset(own, "widget", "train").fingerprint() != first
    target.write_bytes(content)
    assert MVTecDataset(own, "widget", "train").fingerprint() == first
    target.rename(target.with_name("aa.png"))
    assert MVTecDataset(own, "widget", "train").fingerprint() != first


def test_nothing_but_the_loader_imports_torch():
    modules = sorted({path.stem for path in (ROOT / "datasets").glob("*.py")} - {"__init__", "loader"})
    code = f"""
import sys
import {", ".join(f"datasets.{name}" for name in modules)}
assert {{"torch", "torchvision"}}.isdisjoint(sys.modules), "torch is there"
own = {{name for name in sys.modules if name.partition(".")[0] in ("padim", "experiment", "plot", "main")}}
assert not own, own
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
