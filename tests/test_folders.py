"""Folders and pictures as people have them: what lies in a class's folder is read, or named in a line."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
from layouts import OTHER, SIZE, SQUARE, mask, mvtec, mvtec_3d, picture, save
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image
from PIL.ImageFilter import GaussianBlur
from plotting import script

import main
import predict
from datasets.catalogue import DATASETS, find_classes
from datasets.check import check_class
from datasets.folder import SPLITS, FolderDataset
from datasets.images import DataError
from datasets.masks import read_mask
from datasets.mvtec import MVTecDataset
from datasets.pictures import find_others, find_pictures
from datasets.preprocessing import Preprocessing
from experiment.files.folder import Store
from experiment.report import style
from experiment.report.colours import OF_THRESHOLD, colours_of, scale_of
from experiment.report.threshold import class_thresholds
from system.errors import UserError

FAST = ["--arch", "resnet18", "--weights", "random", "--num_workers", "0", "--rd", "5", "--figures", "none"]


@pytest.fixture
def widget(tmp_path):
    """A complete class."""
    mvtec(tmp_path / "data")
    return tmp_path / "data/widget"


def splits(folder) -> list[FolderDataset]:
    return [MVTecDataset(folder.parent, folder.name, split) for split in SPLITS]


def lines(folder) -> list[str]:
    """What is remarked on a class."""
    return check_class(MVTecDataset, folder.parent, folder.name).remarks


def run(folder, out, *options) -> int:
    return main.main([*FAST, "--data_path", str(folder), "--save_path", str(out), *map(str, options)])


def row(out, name="widget") -> dict:
    return json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))["classes"][name]


def move(folder, names, place):
    """Files of a folder into one below it."""
    (folder / place).mkdir(parents=True)
    for name in names:
        (folder / name).rename(folder / place / name)


def rewrite(folder, change, suffix=None, **options):
    """Every picture below a folder, changed, as a file of its own or another suffix."""
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        image = change(Image.open(file).copy())
        file.unlink()
        image.save(file.with_suffix(suffix or file.suffix), **options)


# 哪些文件读入


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
    assert not lines(widget)


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
    assert not lines(widget)


@pytest.mark.parametrize("suffix", ["webp", "jfif", "gif", "jp2", "tga", "pgm", "JPE", "ppm"])
def test_every_picture_that_pillow_reads_is_one(widget, suffix):
    rewrite(widget / "train", lambda image: image, f".{suffix}")
    train, _, _ = splits(widget)
    assert len(train) == 4 and train[0][0].shape == (3, 224, 224)
    assert not lines(widget)
    assert len(find_pictures([widget / "train"])) == 4


def test_what_is_not_read_is_named_once(widget, tmp_path, capsys):
    for name in (
        "train/good/a.heic",
        "train/good/b.HEIC",
        "test/crack/notes.txt",
        "readme.txt",
        "train/good/Thumbs.db",
    ):
        (widget / name).write_bytes(b"x")
    (widget / "train/good/.DS_Store").touch()
    for name in ("train/bad/0.png", "val/good/0.png", "loose.png"):
        picture(widget / name)
    others, unread = sorted(lines(widget), key=lambda line: "pictures," in line)
    assert others.startswith("3 files, such as 'test/crack/notes.txt', are not read")
    assert unread.startswith("3 pictures, such as 'loose.png', are not read: train/good trains")
    assert run(widget, tmp_path / "out", "--resize", "40x36", "--crop", 0) == 0
    captured = capsys.readouterr()
    for line in (others, unread):
        assert captured.err.count(f"widget: {line}\n") == 1 and line not in captured.out
        assert line in row(tmp_path / "out")["remarks"]
    shutil.rmtree(widget / "train/good")
    (widget / "train/good").mkdir()
    (widget / "train/good/a.heic").touch()
    with pytest.raises(UserError, match=r"no training pictures .*2 files, such as .* are not read"):
        check_class(MVTecDataset, widget.parent, "widget")


def test_new_pictures_that_are_not_read_are_counted(widget):
    (widget / "test/a.heic").touch()
    (widget / "test/good/b.heic").touch()
    assert [p.name for p in find_others([widget / "test"])] == ["a.heic", "b.heic"]
    assert [p.name for p in find_others([widget / "test"], widget / "test/good")] == ["a.heic"]


# 图片放错了地方


def test_pictures_directly_below_test_are_an_error(widget, tmp_path, capsys):
    (widget / "test/crack/000.png").rename(widget / "test/crack_000.png")
    assert run(widget, tmp_path / "out") == 2
    (line,) = [s for s in capsys.readouterr().err.replace("\r", "\n").splitlines() if s.startswith("error: ")]
    assert "crack_000.png' lies directly in 'test': put normal pictures into" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ok", "OK", "normal", "defect-free", "正常", "No_Defect"])
def test_a_name_that_usually_means_good(widget, name):
    (widget / "test/good").rename(widget / "test" / name)
    with pytest.raises(DataError, match=rf"{name}' would count as a kind of defect.*call it 'good'"):
        splits(widget)
    shutil.rmtree(widget / "test" / name)  # 只有缺陷的测试集仍可以
    assert splits(widget)[2].kinds == ["crack", "crack"]


@pytest.mark.parametrize("place", ["mask", "Masks", "groundtruth", "gt", "ground_truths", "test/ground_truth", "掩码"])
def test_masks_in_another_folder_are_named(widget, place):
    (widget / "ground_truth").rename(widget / place)
    _, _, test = splits(widget)
    assert not test.has_masks and test.kinds == ["crack", "crack", "good", "good"]
    (line,) = lines(widget)
    assert line.startswith("2 pictures, such as ") and f"{place}/crack/000_mask.png" in line
    assert "look like masks and are not read: call their folder 'ground_truth'" in line


@pytest.mark.parametrize("name", ["test/crack/{}_mask.png", "test/crack/masks/{}.png", "test/crack/{}-GT.png"])
def test_masks_beside_pictures_are_no_pictures(widget, name):
    for i in range(2):
        mask(widget / name.format(f"{i:03d}"), SQUARE)
    shutil.rmtree(widget / "ground_truth")
    assert splits(widget)[2].names()[:2] == ["test/crack/000.png", "test/crack/001.png"]
    (line,) = lines(widget)
    assert "look like masks" in line


def test_masks_without_pictures_are_named(widget):
    for name in ("crack/007_mask.png", "good/000_mask.png"):
        mask(widget / "ground_truth" / name)
    assert lines(widget) == ["2 masks, such as 'ground_truth/crack/007_mask.png', belong to no picture with a defect"]


def test_validation_in_a_folder_of_ones_own(widget, tmp_path):
    for i in range(3):
        picture(widget / f"validation/good/{i}.png")
    train, validation, _ = splits(widget)
    assert len(train) == 4 and len(validation) == 3
    shutil.rmtree(widget / "test")
    assert run(widget, tmp_path, "--resize", "40x36", "--crop", 0) == 0
    assert row(tmp_path)["threshold_origin"] == "99th percentile of 3 validation scores"
    record = json.loads((tmp_path / "temp_resnet18/train_widget.json").read_text(encoding="utf-8"))
    assert len(record["validation_scores"]) == 3 and record["left_out_scores"] is None


def test_mvtec_3d(tmp_path):
    """Pictures, masks and validation; point clouds are neither read nor mentioned; another name is an error."""
    mvtec_3d(tmp_path)
    dataset = DATASETS["mvtec_3d"]
    train, validation, test = (dataset(tmp_path, "tire", split) for split in SPLITS)
    assert train.names() == [f"train/good/rgb/{i:03d}.png" for i in range(4)] and len(validation) == 2
    assert test.kinds == ["cut", "cut", "good", "good"] and test.has_masks
    assert [p.name for p in test.masks[0]] == ["000.png"] and test.masks[0][0].parent.name == "gt" and test[0][2].any()
    assert not check_class(dataset, tmp_path, "tire").remarks
    with pytest.raises(UserError, match="looks like mvtec_3d; give --dataset mvtec_3d"):
        find_classes(MVTecDataset, tmp_path)
    shutil.rmtree(tmp_path / "tire/test/cut/gt")
    with pytest.raises(DataError, match=r"no mask for .*cut.rgb.000\.png': add '.*cut.gt.000"):
        dataset(tmp_path, "tire", "test")
    shutil.rmtree(tmp_path / "tire/test/good/gt")
    assert not dataset(tmp_path, "tire", "test").has_masks


# 掩码


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 75}), (".png", {})])
def test_a_mask_with_many_values_is_cut_at_half(widget, suffix, options):
    def enlarged(image):
        return image.resize((3 * SIZE[0], 3 * SIZE[1]), 0)

    def soft(image):
        return enlarged(image).filter(GaussianBlur(1)) if suffix == ".png" else enlarged(image)

    rewrite(widget, lambda image: enlarged(image) if image.mode == "RGB" else image)
    rewrite(widget / "ground_truth", soft, suffix, **options)
    wanted = np.zeros(SIZE[::-1], bool)
    wanted[SQUARE] = True
    _, _, test = splits(widget)
    found = np.asarray(read_mask(test.masks[0][0])) > 0
    assert np.mean(found != wanted.repeat(3, 0).repeat(3, 1)) < 0.03
    (line,) = lines(widget)
    assert line.startswith("2 of 2 masks, such as 'ground_truth/crack/000_mask.") and "cut at half" in line


def test_a_mask_of_few_small_values_is_as_ever(widget):
    mask(widget / "ground_truth/crack/000_mask.png", SQUARE, value=1)
    values = np.zeros(SIZE[::-1], np.uint8)
    values[SQUARE], values[OTHER] = 1, 2
    save(widget / "ground_truth/crack/001_mask.png", values)
    values[:5, :20] = np.arange(100).reshape(5, 20)  # 编号到一百：也不是灰阶
    save(widget / "ground_truth/crack/000_mask.png", values)
    assert np.array_equal(np.asarray(read_mask(widget / "ground_truth/crack/000_mask.png")) > 0, values > 0)
    assert not lines(widget)


def test_masks_that_mark_nothing_or_nearly_all(widget):
    rewrite(widget / "ground_truth", lambda image: image.point(lambda v: 255 - v))
    (line,) = lines(widget)
    assert "2 of 2 masks" in line and "mark most of the picture" in line
    rewrite(widget / "ground_truth", lambda image: Image.merge("RGBA", [Image.new("L", SIZE)] * 3 + [image]))
    (line,) = lines(widget)
    assert "mark nothing" in line
    mask(widget / "ground_truth/crack/001_mask.png", SQUARE)
    assert lines(widget)[0].startswith("1 of 2 masks, such as 'ground_truth/crack/000_mask.png', mark nothing")


def turned(folder, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    rewrite(folder / "train", lambda image: image, ".jpg", exif=exif, quality=95)
    rewrite(folder / "test", lambda image: image, ".jpg", exif=exif, quality=95)


def test_a_mask_that_fits_the_unturned_picture_is_turned_with_it(widget):
    turned(widget)
    assert not lines(widget)
    wanted = np.zeros(SIZE[::-1], np.uint8)
    wanted[SQUARE] = 1
    picture, _, found = MVTecDataset(widget.parent, "widget", "test", Preprocessing(SIZE, 0))[0]
    np.testing.assert_array_equal(found[0], np.rot90(wanted, 3))
    assert picture[0][found[0] > 0].mean() > picture[0][found[0] == 0].mean() + 1  # 白块就在掩码处
    mask(widget / "ground_truth/crack/000_mask.png", size=(30, 30))
    with pytest.raises(UserError, match="as its EXIF rotation turns it"):
        lines(widget)


def test_square_masks_of_turned_pictures_are_said(widget):
    rewrite(widget, lambda image: image.resize((48, 48), 0))
    turned(widget)
    (line,) = lines(widget)
    assert line.startswith("2 of 2 masks") and "EXIF" in line
    turned(widget, 1)
    assert not lines(widget)


# 图片与训练图片重复，类别不见了，得分不多


def test_test_pictures_that_are_training_pictures(widget, tmp_path, capsys):
    for i in range(2):
        shutil.copy(widget / f"train/good/{i:03d}.png", widget / f"test/good/copy{i}.png")
    assert run(widget, tmp_path, "--resize", "40x36", "--crop", 0) == 0
    (line,) = [line for line in row(tmp_path)["remarks"] if "also training pictures" in line]
    assert line.startswith("2 test pictures") and "'test/good/copy0.png'" in line
    assert capsys.readouterr().err.count(f"widget: {line}\n") == 1


def test_the_crop_is_said_once_a_class(widget, tmp_path, capsys):
    rewrite(widget, lambda image: image.resize((60, 40), 0))
    assert run(widget, tmp_path, "--resize", 40, "--crop", 32) == 0
    (line,) = [line for line in row(tmp_path)["remarks"] if "of their area" in line]
    captured = capsys.readouterr()
    assert "cuts off 57 % of their area" in line and "--resize 32x32 --crop 0, stretched to a square" in line
    assert captured.err.count(f"widget: {line}\n") == 1 and line not in captured.out
    model = tmp_path / "temp_resnet18/train_widget.pkl"
    for size, words in (((60, 40), None), ((120, 40), "79 % of these pictures' area, and 57 % of the training")):
        picture(tmp_path / "new.png", size=size)
        assert predict.main([str(tmp_path / "new.png"), "--model", str(model), "--num_workers", "0"]) == 0
        said = capsys.readouterr().err
        assert words in said if words else "cuts off" not in said


def test_one_threshold_everywhere(widget, tmp_path, capsys):
    """Of a class without labels: rows, CSV, figures, page and predictions; colours from 0 to twice it."""
    new = shutil.copytree(widget / "test/crack", tmp_path / "new")
    for name in ("test/crack", "ground_truth"):
        shutil.rmtree(widget / name)
    out = tmp_path / "out"
    assert run(widget, out, "--resize", "40x36", "--crop", 0) == 0
    record = json.loads((out / "temp_resnet18/train_widget.json").read_text(encoding="utf-8"))
    threshold = np.percentile(record["left_out_scores"], 99)
    assert row(out)["image_threshold"] == pytest.approx(threshold)
    assert row(out)["threshold_origin"] == "99th percentile of 4 left-out training scores"
    capsys.readouterr()
    assert predict.main([str(new), "--model", str(out / "temp_resnet18/train_widget.pkl"), "--num_workers", "0"]) == 0
    assert f"threshold {threshold:.6g} (99th percentile of 4" in capsys.readouterr().err
    assert script("results_page").main(["--result", str(out)]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    (each,) = data["runs"][0]["classes"]
    assert each["threshold"] == pytest.approx(threshold) and each["origin"] == row(out)["threshold_origin"]
    store = Store(out, "resnet18")
    found = class_thresholds(store, "widget", store.read_arrays("widget"))
    colours = colours_of(found, scale_of(store.read_results(), "widget"))
    assert (colours.low, colours.high) == (0, pytest.approx(2 * threshold)) and colours.bar == OF_THRESHOLD


def test_a_long_name_has_a_row_and_a_figure(widget, tmp_path, capsys):
    assert run(widget, tmp_path / "out", "--resize", "40x36", "--crop", 0) == 0
    for name in ("长" * 82, "长" * 81 + "短", "short"):
        picture(tmp_path / "new" / f"{name}.png")
    model = str(tmp_path / "out/temp_resnet18/train_widget.pkl")
    command = [str(tmp_path / "new"), "--model", model, "--out", str(tmp_path / "predicted"), "--num_workers", "0"]
    capsys.readouterr()
    assert predict.main(command) == 0
    assert len((tmp_path / "predicted/predictions.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert len(list((tmp_path / "predicted/pictures").rglob("*.png"))) == 3


def test_what_only_needs_the_fit_is_drawn_from_it(widget, tmp_path, capsys):
    shutil.rmtree(widget / "test")
    out, imgs = tmp_path / "out", tmp_path / "imgs"
    assert run(widget, out, "--resize", "40x36", "--crop", 0) == 0
    words = ["--result", str(out), "--out", str(imgs), "--format", "png", "--dpi", "50"]
    for name in ("model_parameters", "gaussian_parameters", "training_pictures"):
        assert script(name).main(words) == 0
    assert len(list(imgs.iterdir())) == 3
    capsys.readouterr()
    for name in ("roc_curve", "localization", "patch_gaussian"):
        assert script(name).main(words) == 2
        assert "is of classes without test pictures, which this is drawn from: put some into" in capsys.readouterr().err
    assert script("results_page").main(["--result", str(out)]) == 0
    assert "no test pictures, nothing is scored" in (out / "index.html").read_text(encoding="utf-8")


def test_names_in_any_script_are_drawn(tmp_path):
    """Where a font for them is installed no character is a box, in any format; where none is, no warning."""
    with style.look() as say, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert say("a", "b") == "a"
        figure = Figure()
        text = figure.text(0.1, 0.5, "零件 Teil \U000f1234")  # 私用区：哪种字体都没有
        for suffix in ("png", "pdf"):
            with style.legible(figure):
                figure.savefig(tmp_path / f"x.{suffix}", format=suffix)
        try:
            chinese = style.chinese_font()[0]
        except UserError:
            return
        assert chinese in text.get_fontfamily() and "DejaVu Sans" in text.get_fontfamily()
        assert ord("零") in font_manager.get_font(font_manager.findfont(chinese)).get_charmap()


# 位数


@pytest.mark.parametrize(("values", "bits"), [(200, 8), (900, 10), (3000, 12), (7000, 14)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_pictures_that_use_little_of_their_range(widget, values, bits, suffix):
    def deepen(image):
        grey = np.asarray(image.convert("L")).astype(np.uint16)
        return Image.fromarray((grey * (values / grey.max())).astype(np.uint16))

    for place in ("train", "test"):
        rewrite(widget / place, deepen, suffix)
    (line,) = lines(widget)
    assert f"pictures of 16 bits whose values end at {values}: {values // 256 + 1} of 256 levels" in line
    assert f"--bits {bits} takes 0 to {(1 << bits) - 1}" in line
    assert not check_class(MVTecDataset, widget.parent, "widget", Preprocessing(bits=bits)).remarks
    for i, file in enumerate((widget / "train").rglob(f"*{suffix}")):
        if i == 3:  # 有一张用到了八分之一，就不是这回事
            save(file, np.full(SIZE[::-1], 8192, np.uint16))
    assert not lines(widget)


def test_bits_are_kept_and_obeyed(widget, tmp_path, capsys):
    """In the record, by predict.py, and by nobody else's results: the same scores as of the same pictures in 8 bits."""
    out = tmp_path / "out"
    rewrite(widget, lambda image: image.convert("L"))
    deep = shutil.copytree(widget, tmp_path / "deep/widget")
    for place in ("train", "test"):
        rewrite(deep / place, lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) << 4))
    size = "--resize", "40x36", "--crop", 0
    assert run(widget, tmp_path / "shallow", *size) == 0
    assert run(deep, out, *size, "--bits", 12) == 0
    with (
        np.load(out / "scores_resnet18/widget.npz") as ours,
        np.load(tmp_path / "shallow/scores_resnet18/widget.npz") as b,
    ):
        np.testing.assert_array_equal(ours["image_scores"], b["image_scores"])
    record = json.loads((out / "temp_resnet18/train_widget.json").read_text(encoding="utf-8"))
    assert record["preprocessing"]["bits"] == 12
    capsys.readouterr()
    said = []
    for pictures, model in ((deep, out), (widget, tmp_path / "shallow")):
        command = [
            str(pictures / "test"),
            "--model",
            str(model / "temp_resnet18/train_widget.pkl"),
            "--num_workers",
            "0",
        ]
        assert predict.main(command) == 0
        said.append([line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1:]])
    assert said[0] == said[1] and len(said[0]) == 4
    assert run(deep, out, *size) == 2
    assert "preprocessing bits 12, this run has preprocessing bits all" in capsys.readouterr().err
    for wrong in ("7", "17", "x"):
        with pytest.raises(SystemExit):
            run(deep, out, "--bits", wrong)
        assert "--bits" in capsys.readouterr().err
    for file in (deep / "test/good").iterdir():
        save(file, np.full(SIZE[::-1], 5000, np.uint16))
    assert run(deep, out, *size, "--bits", 12) == 2
    assert "values from 5000 to 5000, not 0 to 4095" in capsys.readouterr().err
