"""Resize, crop and the non-aligned protocol; a class as data folder; sizes that do not go together."""

import hashlib
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F  # noqa: N812

from datasets.catalogue import find_classes, locate
from datasets.check import check_class, common_size
from datasets.images import DataError
from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import MEAN, ROTATION, STD, Preprocessing, _resized_centre, to_pictures
from system.errors import UserError


def disc(path, size=(120, 90), centre=(70, 40)):
    """A picture or mask of one white disc."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size)
    ImageDraw.Draw(image).ellipse((centre[0] - 12, centre[1] - 12, centre[0] + 12, centre[1] + 12), fill=255)
    image.save(path)


@pytest.fixture
def own(tmp_path):
    for name in ("widget", "bolt"):
        for i in range(6):
            disc(tmp_path / name / f"train/good/{i}.png")
            disc(tmp_path / name / f"test/dent/{i}.png", centre=(40 + 8 * i, 45))
            disc(tmp_path / name / f"ground_truth/dent/{i}.png", centre=(40 + 8 * i, 45))
    return tmp_path


def test_the_stored_record():
    """Features that were stored before there was a choice stay valid."""
    published = {
        "resize": 256, "crop": 224, "interpolation": "lanczos",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert Preprocessing().record() == Preprocessing(seed=7).record() == published
    assert Preprocessing(seed=7).is_published and not Preprocessing(protocol="rd").is_published
    for made in (Preprocessing(), Preprocessing((64, 96), 0), Preprocessing(80, (64, 32), "rd", 5)):
        assert Preprocessing.from_record(made.record()) == made
    changes = [{"resize": [1]}, {"resize": ["64", "96"]}, {"crop": True}, {"mean": [0]}, {"protocol": "x"}]
    for wrong in ({}, None, *(published | change for change in changes)):
        with pytest.raises(UserError, match="no preprocessing of this program"):
            Preprocessing.from_record(wrong)


@pytest.mark.parametrize("size", [(256, 256), (900, 900), (333, 500), (501, 300), (1000, 231), (224, 97)])
def test_the_default_is_torchvisions_to_the_bit(size):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture, mask = Image.fromarray(values), Image.fromarray((values[..., 0] > 128).astype(np.uint8) * 255)
    resize, mask_resize = (transforms.Resize(256, m) for m in (InterpolationMode.LANCZOS, InterpolationMode.NEAREST))
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    whole = transforms.Compose([resize, transforms.CenterCrop(224), transforms.ToTensor(), normalise])
    np.testing.assert_array_equal(Preprocessing().image(picture), whole(picture).numpy())
    whole = transforms.Compose([mask_resize, transforms.CenterCrop(224), transforms.PILToTensor()])
    np.testing.assert_array_equal(Preprocessing().mask(mask), whole(mask).numpy() > 0)
    assert Preprocessing(crop=0).output_size(size, None) == resize(picture).size[::-1]


def by_torchvision(prepared: Preprocessing, picture: Image.Image, key: str | None, is_mask: bool) -> np.ndarray:
    """The same frame by torchvision's functions alone: resize, turn and crop at random or crop at the centre."""
    near, turning = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
    size = list(prepared.resize) if isinstance(prepared.resize, tuple) else prepared.resize
    width, height = F.resize(picture, size).size
    for shape in ([picture.height, width], [height, width]):  # 先行后列
        picture = F.resize(picture, shape, near if is_mask else InterpolationMode.LANCZOS)
    h, w = (prepared.crop, prepared.crop) if isinstance(prepared.crop, int) else prepared.crop
    if prepared.protocol == "aligned" or key is None:
        picture = F.center_crop(picture, [h, w]) if h else picture
    else:
        digest = hashlib.sha256(f"{prepared.seed}/{key}".encode()).digest()
        draws = random.Random(int.from_bytes(digest, "big"))
        picture = F.rotate(picture, draws.uniform(-ROTATION, ROTATION), near if is_mask else turning, fill=0)
        if h:
            top, left = draws.randint(0, picture.height - h), draws.randint(0, picture.width - w)
            picture = F.crop(picture, top, left, h, w)
    if is_mask:
        return (F.pil_to_tensor(picture) > 0).to(torch.uint8).numpy()
    return F.normalize(F.to_tensor(picture), MEAN, STD).numpy()


@pytest.mark.parametrize("size", [(256, 256), (900, 900), (333, 500), (128, 96), (97, 61), (1, 3)])
@pytest.mark.parametrize(
    ("resize", "crop"),
    [(256, 224), (256, 0), (256, (31, 200)), (97, 96), ((64, 128), (48, 100)), ((64, 128), 0), ((96, 128), 50)],
)
@pytest.mark.parametrize("protocol", ["aligned", "rd"])
def test_pictures_and_masks_are_torchvisions_to_the_bit(size, resize, crop, protocol):
    values = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture, mask = Image.fromarray(values), Image.fromarray((values[..., 0] > 128).astype(np.uint8) * 255)
    prepared = Preprocessing(resize, crop, protocol, seed=3)
    for key in (None, "x/test/dent/a.png"):
        image = prepared.image(picture, key)
        wanted = by_torchvision(prepared, picture, key, is_mask=False)
        assert image.dtype == np.float32 and image.flags.c_contiguous
        np.testing.assert_array_equal(image.view(np.uint32), wanted.view(np.uint32))
        framed = prepared.mask(mask, key)
        assert framed.dtype == np.uint8
        np.testing.assert_array_equal(framed, by_torchvision(prepared, mask, key, is_mask=True))


def test_every_value_of_every_channel_is_torchvisions_and_comes_back():
    values = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    image = Preprocessing(16, 0).image(Image.fromarray(values))
    wanted = F.normalize(F.to_tensor(Image.fromarray(values)), MEAN, STD)
    np.testing.assert_array_equal(image.view(np.uint32), wanted.numpy().view(np.uint32))
    np.testing.assert_array_equal(to_pictures(image[None]), values[None])
    anything = np.random.default_rng(0).normal(0, 3, (2, 3, 40, 50)).astype(np.float32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    wanted = (torch.from_numpy(anything) * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    np.testing.assert_array_equal(to_pictures(anything), wanted.permute(0, 2, 3, 1).numpy())


def in_two_steps(picture: Image.Image, resize: object, crop: int) -> np.ndarray:
    width, height = transforms.Resize(resize)(picture).size
    # 先行后列：各版本的 Pillow 对正方形的图都如此
    resized = picture.resize((width, picture.height), Image.Resampling.LANCZOS)
    resized = resized.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(transforms.CenterCrop(crop)(resized))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_resized_and_cropped_in_one_step(data):
    """To the bit what two steps give, be it computed in one or not: squares, oblong ones, any crop, any scale."""
    width = data.draw(st.integers(4, 600))
    height = data.draw(st.one_of(st.just(width), st.integers(4, 600)))
    short = data.draw(st.sampled_from([256, 128, 64, 97, 300, 512]))
    crop = data.draw(st.integers(1, short))
    resize = data.draw(st.sampled_from([short, (short, short), (short, 2 * short)]))
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    image = Preprocessing(resize, crop).image(picture)
    wanted = in_two_steps(picture, resize, crop)
    np.testing.assert_array_equal(to_pictures(image[None])[0], wanted)


def test_when_one_step_is_exact():
    """Squares at the default size, whatever theirs is; oblong pictures and other fractions take two steps."""
    for side in (97, 256, 700, 900, 1024, 1999):
        picture = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))
        cropped = _resized_centre(picture, (256, 256), (224, 224))
        np.testing.assert_array_equal(np.asarray(cropped), in_two_steps(picture, 256, 224))
    square, oblong = Image.new("RGB", (900, 900)), Image.new("RGB", (900, 450))
    assert _resized_centre(oblong, (256, 512), (224, 224)) is None
    assert _resized_centre(square, (256, 256), (224, 200)) is None
    assert _resized_centre(square, (256, 512), (224, 224)) is None
    assert _resized_centre(square, (224, 224), (200, 200)) is None  # 900/224 不是 float32 的数
    assert _resized_centre(square, (300, 300), (224, 224)) is not None


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_a_thin_picture_would_be_resized_to_gigabytes(size):
    sides = r"1x60000 .*256x15360000" if size[0] > 1 else r"60000x1 .*15360000x256"
    with pytest.raises(DataError, match=rf"thin\.png', {sides} after --resize 256, .*HEIGHTxWIDTH"):
        Preprocessing().output_size(size, "thin.png")
    assert Preprocessing((256, 256)).output_size(size, "thin.png") == (224, 224)
    assert Preprocessing(256, 0).output_size((699_000, 256), "long.png") == (256, 699_000)


@pytest.mark.parametrize(
    ("resize", "crop", "size"),
    [
        (256, 224, (224, 224)), (60, 0, (60, 80)), (61, 0, (61, 81)), (60, 60, (60, 60)), (60, (40, 80), (40, 80)),
        ((64, 128), 0, (64, 128)), ((64, 128), (32, 100), (32, 100)), ((64, 128), 64, (64, 64)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["aligned", "rd"])
def test_sizes(own, resize, crop, size, protocol):
    preprocessing = Preprocessing(resize, crop, protocol)
    assert check_class(MVTecDataset, own, "widget", preprocessing)[:3] == (6, 6, size)
    image, _, mask = MVTecDataset(own, "widget", "test", preprocessing)[1]
    assert image.shape == (3, *size) and mask.shape == (1, *size)


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), ((64, 128), (48, 100)), ((64, 128), 0)])
def test_the_random_frame_is_that_of_the_mask(own, resize, crop):
    """White discs: the mask covers them wherever they have been turned and shifted to."""
    dataset = MVTecDataset(own, "widget", "test", Preprocessing(resize, crop, "rd"))
    aligned = MVTecDataset(own, "widget", "test", Preprocessing(resize, crop))
    for i in range(len(dataset)):
        image, _, mask = dataset[i]
        bright = to_pictures(image[None])[0, ..., 0] > 127
        assert np.unique(mask).tolist() == [0, 1]  # NEAREST：没有中间值
        assert (bright != (mask[0] > 0)).sum() < 0.1 * bright.sum()
        assert not np.array_equal(image, aligned[i][0])


def test_the_draws_depend_on_seed_and_path_alone(own):
    def pictures(name="widget", seed=1024, size=2, workers=0):
        dataset = MVTecDataset(own, name, "train", Preprocessing(protocol="rd", seed=seed))
        return torch.cat([images for images, _, _ in batches(dataset, size, workers)])

    first = pictures()
    assert torch.equal(pictures(size=5, workers=3), first)
    assert not torch.equal(first[0], first[1])  # 同样的图，不同的路径
    assert not torch.equal(pictures("bolt"), first) and not torch.equal(pictures(seed=1), first)
    (own / "widget/train/good/0.png").unlink()
    assert torch.equal(pictures(), first[1:])


def test_angles_and_offsets_cover_their_ranges():
    """The place and the angle of a line in the middle, over many paths."""
    line = Image.new("L", (256, 256))
    ImageDraw.Draw(line).rectangle((0, 124, 255, 131), fill=255)
    heights, angles = [], []
    for i in range(200):
        mask = Preprocessing(protocol="rd").mask(line, str(i))[0]
        y, x = np.nonzero(mask)
        slope, middle = np.polyfit(x, y, 1)
        angles.append(np.rad2deg(np.arctan(slope)))
        heights.append(slope * 112 + middle)
    assert -ROTATION - 1 < min(angles) < -ROTATION + 1 and ROTATION - 1 < max(angles) < ROTATION + 1
    assert abs(np.mean(angles)) < 1.5
    assert 90 < min(heights) < 104 and 120 < max(heights) < 134  # 裁剪的起点在 0 至 32


def test_new_pictures_are_not_turned():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    turned = Preprocessing(protocol="rd").image(picture)
    np.testing.assert_array_equal(turned, Preprocessing().image(picture, "any"))


@pytest.mark.parametrize(
    ("resize", "crop", "message"),
    [
        (100, 128, r"'.*0\.png' is 100x133 after --resize 100, smaller than --crop 128"),
        ((64, 128), 100, r"is 64x128 after --resize 64x128, smaller than --crop 100"),
        (100, (90, 140), r"smaller than --crop 90x140; give a larger --resize"),
    ],
)
def test_a_crop_that_is_too_large(own, resize, crop, message):
    with pytest.raises(DataError, match=message):
        check_class(MVTecDataset, own, "widget", Preprocessing(resize, crop))


def test_one_size_a_class_and_a_run(own):
    uncropped = Preprocessing(60, 0)
    for path in (own / "bolt").rglob("*.png"):
        disc(path, (90, 90))
    checked = {name: check_class(MVTecDataset, own, name, uncropped) for name in ("widget", "bolt")}
    with pytest.raises(UserError, match=r"'widget' comes out at 60x80, class 'bolt' at 60x60.*--resize.*--classes"):
        common_size(checked)
    assert common_size({"bolt": checked["bolt"]}) == (60, 60)
    disc(own / "bolt/train/good/3.png", (180, 90))
    with pytest.raises(UserError, match=r"3\.png' comes out at 60x120, .*0\.png' at 60x60.*--crop"):
        check_class(MVTecDataset, own, "bolt", uncropped)
    check_class(MVTecDataset, own, "bolt")


def test_a_folder_that_is_a_class(own, monkeypatch):
    assert locate(MVTecDataset, own) == (own, None)
    assert locate(MVTecDataset, own / "widget") == locate(MVTecDataset, own / "widget", ["widget"]) == (own, ["widget"])
    monkeypatch.chdir(own / "widget")
    assert find_classes(MVTecDataset, *locate(MVTecDataset, own / ".")) == ["bolt", "widget"]
    assert locate(MVTecDataset, (own / "widget").relative_to(own / "widget")) == (own, ["widget"])
    with pytest.raises(UserError, match=r"is the class 'widget'; leave out --classes"):
        locate(MVTecDataset, own / "widget", ["bolt"])
    shutil.copytree(own / "bolt", own / "widget" / "bolt")
    assert find_classes(MVTecDataset, *locate(MVTecDataset, own / "widget")) == ["bolt"]
