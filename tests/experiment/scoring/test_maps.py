"""Raw maps and masks as files, in the pixels of the picture that was given."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import main
import predict
from datasets.preprocessing import Preprocessing
from datasets.sample import write_sample
from experiment.report.colours import predicted_mask
from experiment.scoring.defects import find_defects
from experiment.scoring.maps import full_mask, full_size


@pytest.mark.parametrize("size", [(300, 200), (96, 96), (50, 40), (1, 1)])
def test_a_map_of_a_whole_picture_is_interpolated_as_torch_does(size):
    raw = np.random.default_rng(0).random((32, 48)).astype(np.float32)
    found = full_size(raw, Preprocessing((32, 48), 0), size)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(raw)[None, None], size[::-1], mode="bilinear")[0, 0]
    assert found.dtype == np.float32 and found.shape == size[::-1]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "preprocessing"),
    [((900, 900), Preprocessing()), ((1000, 700), Preprocessing()), ((90, 61), Preprocessing((256, 384), (224, 200)))],
)
def test_outside_of_the_crop_nothing_is_known(size, preprocessing):
    """A map that is its own place, within the crop, and NaN around it; the mask lies where its regions do."""
    height, width = preprocessing.output_size(size, "x.png")
    (resized, _), (left, _) = preprocessing.placement(size)
    ramp = np.broadcast_to(np.arange(width, dtype=np.float32) + left + 0.5, (height, width))
    found, centres = full_size(ramp, preprocessing, size), (np.arange(size[0]) + 0.5) * resized / size[0]
    inside = (centres >= left) & (centres < left + width)
    row = found[size[1] // 2]
    assert (np.isnan(row) == ~inside).all() and 0 < inside.sum() < size[0]
    np.testing.assert_allclose(row[inside], np.clip(centres[inside], left + 0.5, left + width - 0.5), rtol=1e-5)
    known = ~np.isnan(found)
    assert (known == known.any(0) & known.any(1)[:, None]).all()

    raw = np.zeros((height, width), np.float32)
    raw[30:90, 50:120] = 9
    mask = predicted_mask(raw, 5.0)
    whole, (region,) = full_mask(mask, preprocessing, size), find_defects(raw, mask, preprocessing, size)
    y, x = np.nonzero(whole)
    box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert whole.dtype == np.uint8 and set(np.unique(whole)) == {0, 255}
    assert np.abs(np.subtract(box, region.box)).max() <= 1
    assert len(x) == pytest.approx(region.area, rel=0.08)


def test_predict_writes_them(tmp_path, capsys):
    """As the picture is looked at; named like the figures; and the next prediction does not take them for pictures."""
    data, out = tmp_path / "data", tmp_path / "new"
    write_sample(data, n_train=8, n_test=6, size=64)
    shutil.rmtree(data / "flange")
    options = ["--arch", "resnet18", "--weights", "random", "--rd", "20", "--figures", "none", "--num_workers", "0"]
    assert main.main([*options, "--data_path", str(data), "--save_path", str(tmp_path / "out")]) == 0
    model = str(tmp_path / "out/temp_resnet18/train_linen.pkl")
    source = next((data / "linen/test/hole").glob("*.png"))
    picture = Image.open(source).convert("RGB").resize((100, 64))
    (out / "sub").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # 看的时候转四分之一圈
    picture.save(out / "sub/turned.jpg", exif=exif)
    shutil.copy(source, out / "plain.png")
    command = ["--model", model, str(out), "--out", str(out), "--maps"]
    for _ in range(2):
        assert predict.main(command) == 0
        written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.parent != out and p.is_file())
        assert written == [
            "maps/new/plain.tif", "maps/new/sub/turned.jpg.tif", "masks/new/plain.png", "masks/new/sub/turned.jpg.png",
            "pictures/new/plain.png", "pictures/new/sub/turned.jpg.png", "sub/turned.jpg",
        ]  # fmt: skip
    plain, turned = (Image.open(out / "maps/new" / name) for name in ("plain.tif", "sub/turned.jpg.tif"))
    assert (plain.mode, plain.size, turned.size) == ("F", (64, 64), (64, 100))
    assert Image.open(out / "masks/new/sub/turned.jpg.png").size == (64, 100)
    rows = (out / "predictions.csv").read_text(encoding="utf-8").splitlines()
    score = float(rows[1].split(",")[1])
    assert 0.5 * score < np.nanmax(np.asarray(plain)) <= score * (1 + 1e-6)
    assert np.asarray(Image.open(out / "masks/new/plain.png")).max() == 255
    capsys.readouterr()
    with pytest.raises(SystemExit):
        predict.main(["--model", model, str(out), "--maps"])
    assert "--maps needs a folder for them; give --out" in capsys.readouterr().err


def test_no_masks_without_a_threshold(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "new"
    write_sample(data, n_train=2, n_test=3, size=64)  # 两张训练图像：没有留一得分
    shutil.rmtree(data / "flange")
    shutil.rmtree(data / "linen/test")
    options = ["--arch", "resnet18", "--weights", "random", "--rd", "20", "--figures", "none", "--num_workers", "0"]
    assert main.main([*options, "--data_path", str(data), "--save_path", str(tmp_path / "out")]) == 0
    command = ["--model", str(tmp_path / "out/temp_resnet18/train_linen.pkl"), str(data / "linen/train/good")]
    assert predict.main([*command, "--out", str(out), "--maps", "--colours", "class"]) == 0
    assert "no masks without a threshold" in capsys.readouterr().err
    assert (out / "maps").is_dir() and not (out / "masks").exists()
