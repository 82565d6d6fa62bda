"""Each data set in its own layout, with its traps; which set a folder holds."""

import importlib
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
from layouts import CLASSES, LAYOUTS, OTHER, SIZE, SQUARE, WITHOUT_MASKS, btad, mvtec, picture, save
from PIL import Image

from datasets.catalogue import DATASETS, find_classes, locate
from datasets.check import check_class, cut_off
from datasets.folder import SPLITS
from datasets.images import DataError
from datasets.preprocessing import Preprocessing, to_pictures
from system.errors import UserError

WHOLE = Preprocessing(SIZE[::-1], 0)  # 原样：掩码可以逐像素对照


def drawn(path, name):
    LAYOUTS[name](path)
    return path


def splits(root, dataset, name, preprocessing=WHOLE):
    return [DATASETS[dataset](root, name, split, preprocessing) for split in SPLITS]


def wanted_mask(*places):
    mask = np.zeros(SIZE[::-1], bool)
    for place in places:
        mask[place] = True
    return mask


def test_the_names():
    assert list(DATASETS) == list(LAYOUTS) and all(name == dataset.NAME for name, dataset in DATASETS.items())


@pytest.mark.parametrize("name", DATASETS)
def test_every_set_in_its_own_layout(tmp_path, name):
    """What all have in common: the classes in their order, disjoint splits, masks where the pictures are white."""
    root = drawn(tmp_path, name)
    dataset = DATASETS[name]
    assert locate(dataset, root) == (root, None) and find_classes(dataset, root) == CLASSES[name]
    for each in CLASSES[name]:
        checked = check_class(dataset, root, each, WHOLE)
        train, validation, test = splits(root, name, each)
        assert checked[:3] == (len(train), len(test), SIZE[::-1]) and len(train) == 4
        assert not train.labels.any() and not validation.labels.any() and test.is_labelled
        assert test.has_masks == (name not in WITHOUT_MASKS)
        files = [*train.files, *validation.files, *test.files]
        assert len(set(files)) == len(files) and len({train.fingerprint(), test.fingerprint(), test.summary()}) == 3
        for (image, label, mask), kind in zip(test, test.kinds, strict=True):
            bright = to_pictures(image[None])[0].min(-1) > 200
            assert (kind != "good") == label == bool(bright.any())
            assert (bright != (mask[0] > 0)).mean() < 0.08 if test.has_masks else not mask.any()


@pytest.mark.parametrize("there", DATASETS)
@pytest.mark.parametrize("named", DATASETS)
def test_a_folder_of_another_set_names_it(tmp_path, named, there):
    root = drawn(tmp_path, there)
    whole = "kolektor_sdd2", "elpv", "elpv_lots"  # 整个文件夹，其下没有类别的
    for place in [root] if there in whole else [root, root / CLASSES[there][0]]:
        if DATASETS[named].MARKS == DATASETS[there].MARKS:  # 同一布局的两种划分
            assert find_classes(DATASETS[named], *locate(DATASETS[named], place))[0] == CLASSES[there][0]
            continue
        with pytest.raises(
            UserError, match=rf"looks like {LAYOUTS[there].__name__}; give --dataset {LAYOUTS[there].__name__}$"
        ):
            find_classes(DATASETS[named], *locate(DATASETS[named], place))


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_and_none(tmp_path, name):
    with pytest.raises(UserError, match=r"^no class \(a folder with [^)]+\) in .*; see --data_path$"):
        find_classes(DATASETS[name], tmp_path)
    with pytest.raises(UserError, match=r"^no data folder .*--data_path, or (get|fetch) .*"):
        find_classes(DATASETS[name], tmp_path / "absent")


def test_classes_of_several_sets_in_one_folder(tmp_path):
    mvtec(tmp_path)
    btad(tmp_path)
    for name, each in (("mvtec", r"tile \(mvtec\), 01 \(btad\)"), ("btad", r"01 \(btad\), tile \(mvtec\)")):
        with pytest.raises(UserError, match=rf"several data sets: {each}; .*--classes$"):
            find_classes(DATASETS[name], tmp_path)
        with pytest.raises(UserError, match="several data sets"):
            find_classes(DATASETS[name], tmp_path, ["01", "tile"])
        assert find_classes(DATASETS[name], tmp_path, CLASSES[name][:1]) == CLASSES[name][:1]
    with pytest.raises(UserError, match="looks like btad"):
        find_classes(DATASETS["mvtec"], tmp_path, ["01"])
    with pytest.raises(UserError, match=r"no class '03' .*found: 01, 02; see --classes"):
        find_classes(DATASETS["btad"], tmp_path, ["03"])


def test_visa_follows_its_table(tmp_path):
    drawn(tmp_path, "visa")
    train, validation, test = splits(tmp_path, "visa", "pcb1")
    assert [p.stem for p in train.files] == ["0005", "0001", "0000", "0003"] and not len(validation)
    assert test.names() == [
        "Data/Images/Normal/0002.JPG", "Data/Images/Normal/0004.JPG",
        "Data/Images/Anomaly/000.JPG", "Data/Images/Anomaly/001.JPG",
    ]  # fmt: skip
    assert test.kinds == ["good", "good", "anomaly", "anomaly"]
    for index in (2, 3):  # 值为 1、2 的掩码
        np.testing.assert_array_equal(test[index][2][0], wanted_mask(SQUARE))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("pcb1,train,normal,pcb1/Data/Images/Normal/9.JPG,", r"line 18: no file '.*9\.JPG'"),
        ("pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/0.png", r"line 18: no file '.*0\.png'"),
        ("pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,", r"line 18: '' is not below '.*pcb1'"),
        ("pcb1,train,normal,../secret.png,", r"line 18: '\.\./secret\.png' is not below"),
        ("pcb1,train,normal,pcb1/../../secret.png,", "line 18: .* is not below"),
        ("pcb1,train,normal,/etc/secret.png,", "line 18: .* is not below"),
        (r"pcb1,train,normal,C:\secret.png,", "line 18: .* is not below"),
        ("pcb1,train,normal,candle/Data/Images/Normal/0000.JPG,", "line 18: .* is not below"),
        ("pcb1,train,normal", "line 18: '' is not below"),
        ("pcb1,train,anomaly,pcb1/Data/Images/Anomaly/000.JPG,", "line 18: no split and label of VisA"),
        ("pcb1,val,normal,pcb1/Data/Images/Normal/0000.JPG,", "line 18: no split and label of VisA: 'val', 'normal'"),
    ],
)
def test_rows_of_visa_that_cannot_be(tmp_path, row, message):
    drawn(tmp_path, "visa")
    table = tmp_path / "split_csv/1cls.csv"
    table.write_text(f"{table.read_text(encoding='utf-8')}{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"1cls\.csv', {message}"):
        check_class(DATASETS["visa"], tmp_path, "pcb1", WHOLE)
    check_class(DATASETS["visa"], tmp_path, "candle", WHOLE)


def test_a_table_of_visa_that_is_none(tmp_path):
    drawn(tmp_path, "visa")
    table = tmp_path / "split_csv/1cls.csv"
    rows = table.read_bytes()
    table.write_bytes(b"\xef\xbb\xbf" + rows)  # 表格软件存过的，开头有 BOM
    check_class(DATASETS["visa"], tmp_path, "pcb1", WHOLE)
    for content, message in (
        (b"", "has no column image, label, mask, object, split"),
        (rows.replace(b"object", b"class"), "has no column object"),
        (b"\xff\xfe" + rows, "cannot read"),
        (rows.replace(b"pcb1", b"pcb9"), "has no row of class 'pcb1'"),
    ):
        table.write_bytes(content)
        with pytest.raises(DataError, match=rf"1cls\.csv'.* ?{message}|{message} .*1cls\.csv"):
            check_class(DATASETS["visa"], tmp_path, "pcb1", WHOLE)
    table.unlink()
    with pytest.raises(DataError, match=r"no '.*1cls\.csv', which says what trains"):
        check_class(DATASETS["visa"], tmp_path, "pcb1", WHOLE)


def test_btad_has_masks_of_another_suffix(tmp_path):
    drawn(tmp_path, "btad")
    *_, test = splits(tmp_path, "btad", "01")
    assert test.names() == ["test/ko/0000.bmp", "test/ko/0001.bmp", "test/ok/0000.png", "test/ok/0001.png"]
    assert test.kinds == ["ko", "ko", "good", "good"] and [p.name for p in test.masks[0]] == ["0000.png"]
    (tmp_path / "01/ground_truth/ko/0001.png").unlink()
    with pytest.raises(DataError, match=r"no mask for '.*0001\.bmp': add '.*0001\.png', or remove ground_truth"):
        check_class(DATASETS["btad"], tmp_path, "01", WHOLE)


def test_loco_joins_the_masks_of_a_picture(tmp_path):
    drawn(tmp_path, "mvtec_loco")
    _, validation, test = splits(tmp_path, "mvtec_loco", "screw_bag")
    assert validation.names() == ["validation/good/000.png", "validation/good/001.png"]
    assert test.kinds == [kind for kind in ("good", "logical_anomalies", "structural_anomalies") for _ in range(2)]
    np.testing.assert_array_equal(test[2][2][0], wanted_mask(SQUARE, OTHER))
    np.testing.assert_array_equal(test[4][2][0], wanted_mask(OTHER))
    before = test.fingerprint()
    folder = tmp_path / "screw_bag/ground_truth/logical_anomalies/000"
    save(folder / "001.png", np.zeros((9, 9), np.uint8))
    assert splits(tmp_path, "mvtec_loco", "screw_bag")[2].fingerprint() != before
    with pytest.raises(UserError, match=r"001\.png' is 9x9, its picture 40x36"):
        check_class(DATASETS["mvtec_loco"], tmp_path, "screw_bag", WHOLE)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no mask for '.*000\.png': add '.*logical_anomalies.000.000\.png'"):
        check_class(DATASETS["mvtec_loco"], tmp_path, "screw_bag", WHOLE)


def test_ad_2_is_tested_on_what_has_labels(tmp_path):
    drawn(tmp_path, "mvtec_ad_2")
    _, validation, test = splits(tmp_path, "mvtec_ad_2", "vial")
    assert test.names() == [
        "test_public/bad/000_regular.png", "test_public/bad/001_regular.png",
        "test_public/good/000_overexposed.png", "test_public/good/001_overexposed.png",
    ]  # fmt: skip
    assert test.kinds == ["bad", "bad", "good", "good"]
    assert validation.names() == ["validation/good/000_regular.png", "validation/good/001_regular.png"]
    picture(tmp_path / "vial/validation/good/2.png", size=(80, 80))  # 验证图片也要合得来
    with pytest.raises(UserError, match=r"2\.png' comes out at 36x36"):
        check_class(DATASETS["mvtec_ad_2"], tmp_path, "vial", Preprocessing(36, 0))
    assert len(DATASETS["mvtec"](tmp_path, "vial", "validation")) == 3  # MVTec 布局里的 validation 也一样


def test_kolektor_leaves_out_training_pictures_with_defects(tmp_path):
    drawn(tmp_path, "kolektor_sdd2")
    train, _, test = splits(tmp_path, "kolektor_sdd2", "kolektor_sdd2")
    assert train.names() == [f"train/{i}.png" for i in (10000, 10001, 10003, 10004)] and train.left_out == 1
    assert test.names() == [f"test/{i}.png" for i in range(20000, 20004)] and test.left_out == 0
    assert test.kinds == ["good", "defect", "good", "defect"]
    checked = check_class(DATASETS["kolektor_sdd2"], tmp_path, "kolektor_sdd2", WHOLE)
    assert checked.remarks == ["training pictures left out because they show a defect: 1"]
    values = np.zeros((63, 23), np.uint8)
    values[5, 5] = 1
    save(tmp_path / "train/10000_GT.png", values)  # 在同一进程里改了掩码，也看得出
    assert splits(tmp_path, "kolektor_sdd2", "kolektor_sdd2")[0].left_out == 2
    (tmp_path / "test/20000_GT.png").unlink()
    with pytest.raises(DataError, match=r"no mask for '.*20000\.png': add '.*20000_GT\.png'"):
        check_class(DATASETS["kolektor_sdd2"], tmp_path, "kolektor_sdd2", WHOLE)


def test_elpv_follows_its_table(tmp_path):
    drawn(tmp_path, "elpv")
    good = [0, 4, 6, 8, 11, 14, 18]  # mono 的好图，按表中的次序
    for name, kept in (("elpv_lots", good[:4]), ("elpv", sorted(random_first(good, 4)))):
        train, validation, test = splits(tmp_path, name, "elpv_mono")
        assert train.names() == [f"images/cell{i:04d}.png" for i in kept] and not len(validation)
        tested = [i for i in good if i not in kept]
        assert test.names() == [f"images/cell{i:04d}.png" for i in [*tested, 1, 16]]
        assert test.kinds == ["good"] * 3 + ["1.00", "0.67"] and (train.left_out, test.left_out) == (1, 0)
    checked = check_class(DATASETS["elpv"], tmp_path, "elpv_poly", WHOLE)
    assert checked.remarks == ["pictures left out because experts were unsure of a defect (probability 0.33): 2"]


def random_first(items, count):
    shuffled = list(items)
    Random(0).shuffle(shuffled)
    return shuffled[:count]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/cell0099.png 0.0 poly", r"line 22: no file '.*cell0099\.png'; put it there"),
        ("images/../../secret.png 0.0 poly", "line 22: no file"),
        ("/etc/secret.png 0.0 poly", "line 22: no row of ELPV .*: '/etc/secret"),
        ("images/cell0001.png,0.0,poly", "line 22: no row of ELPV"),
        ("images/cell0001.png 2.0 poly", "line 22: no row of ELPV"),
        ("images/cell0001.png 0.0 thin", "line 22: no row of ELPV"),
    ],
)
def test_rows_of_elpv_that_cannot_be(tmp_path, row, message):
    drawn(tmp_path, "elpv")
    table = tmp_path / "labels.csv"
    table.write_text(f"{table.read_text(encoding='utf-8')}{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"labels\.csv', {message}"):
        check_class(DATASETS["elpv"], tmp_path, "elpv_poly", WHOLE)
    table.write_bytes(b"\xff\xfe" + table.read_bytes())
    with pytest.raises(DataError, match=r"cannot read '.*labels\.csv'"):
        check_class(DATASETS["elpv"], tmp_path, "elpv_poly", WHOLE)


def test_a_folder_with_a_labels_csv_of_ones_own_is_no_elpv(tmp_path):
    mvtec(tmp_path)
    picture(tmp_path / "images/0.png")
    (tmp_path / "labels.csv").write_text("file,label\nimages/0.png,good\n", encoding="utf-8")
    assert find_classes(DATASETS["mvtec"], tmp_path) == ["tile"]
    with pytest.raises(UserError, match="looks like mvtec"):
        find_classes(DATASETS["elpv"], tmp_path)


def test_elpv_is_found_where_its_package_lies(tmp_path, monkeypatch):
    """Without importing it; where it is not installed, the folder in which it would lie is named."""
    monkeypatch.setenv("MVTEC_PATH", str(tmp_path / "mvtec"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    absent = DATASETS["elpv_lots"].default_root()
    assert absent.parts[-2:] == ("elpv_dataset", "data") and DATASETS["visa"].default_root() == tmp_path / "mvtec"
    root = tmp_path / "site/elpv_dataset/data"
    drawn(root, "elpv")
    (root.parent / "__init__.py").write_text("raise AssertionError", encoding="utf-8")
    importlib.invalidate_caches()
    assert DATASETS["elpv"].default_root() == DATASETS["elpv_lots"].default_root() == root
    assert find_classes(DATASETS["elpv"], root) == CLASSES["elpv"]


@pytest.mark.skipif(not DATASETS["elpv"].default_root().is_dir(), reason="requirements-elpv.txt is not installed")
@pytest.mark.parametrize("name", ["elpv", "elpv_lots"])
def test_elpv_as_its_package_delivers_it(name):
    dataset, numbers = DATASETS[name], {"elpv_mono": (352, 236, 56, 313, 117), "elpv_poly": (552, 368, 50, 402, 178)}
    assert find_classes(dataset, dataset.default_root()) == list(numbers)
    for each, (n_train, good, likely, certain, unsure) in numbers.items():
        train, _, test = splits(dataset.default_root(), name, each, Preprocessing())
        assert (len(train), train.left_out) == (n_train, unsure) and not set(train.files) & set(test.files)
        assert Counter(test.kinds) == {"good": good, "0.67": likely, "1.00": certain}
        is_first = max(train.names()) < min(test.names()[:good])  # 好图在前
        assert is_first == (name == "elpv_lots")


def test_the_draws_of_rd_do_not_depend_on_where_kolektor_lies(tmp_path):
    rd = Preprocessing((72, 48), 32, "rd")
    first, second = (
        splits(drawn(tmp_path / place, "kolektor_sdd2"), "kolektor_sdd2", "kolektor_sdd2", rd)[2] for place in "ab"
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[2], other[2])


def test_an_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="no split True"):
        DATASETS["mvtec"](drawn(tmp_path, "mvtec"), "tile", True)


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        ((30, 80), (), "2.7 times as long as wide; the published preprocessing, --resize 256 --crop 224 "
         "cuts off 71 % of their area; --resize 608x224 --crop 0 keeps all of it, and so does --resize 224x224"),
        ((80, 30), (), "--resize 224x608 --crop 0 keeps all of it"),
        ((80, 30), (300, 256), "--resize 300 --crop 256 cuts off 73 % of their area; --resize 256x672 --crop 0 keeps"),
        ((64, 48), (), "cuts off 43 % of their area; --resize 224x288 --crop 0"),
        ((45, 40), (), None), ((40, 40), (), None), ((30, 80), (64, 0), None), ((30, 80), ((608, 224), 0), None),
        ((30, 80), (64, (64, 48)), None),
    ],
)  # fmt: skip
def test_ends_that_are_cut_off(tmp_path, size, options, words):
    for name in ("a", "b"):
        for i in range(3):
            picture(tmp_path / name / f"train/good/{i}.png", size=size if name == "a" else (40, 40))
    preprocessing = Preprocessing(*options)
    checked = {name: check_class(DATASETS["mvtec"], tmp_path, name, preprocessing) for name in ("a", "b")}
    lines = [line for found in checked.values() if (line := cut_off(found.longest, preprocessing, 10))]
    if words is None:
        assert not lines
        return
    (line,) = lines
    assert line.startswith(f"pictures up to {max(size) / min(size):.1f} times") and words in line
    kept = line.split("area; --resize ")[1].split()[0].split("x")
    width, height = size
    assert int(kept[0]) / int(kept[1]) == pytest.approx(height / width, rel=0.05)
    assert line.endswith(f"--resize {preprocessing.crop}x{preprocessing.crop} --crop 0, stretched to a square")


def test_what_is_advised_fits_into_memory():
    """The sides become shorter until it does; where nothing does, a square is left."""
    published = Preprocessing()
    assert "--resize 224x2240 --crop 0 keeps" in (cut_off((160, 1600), published, 10) or "")
    assert "--resize 96x960 --crop 0 keeps" in (cut_off((160, 1600), published, 2) or "")
    assert "--resize 32x3200 --crop 0 keeps" in (cut_off((20, 2000), published, 3) or "")
    line = cut_off((20, 2000), published, 1.5)
    assert line and line.count("--resize") == 2 and "--resize 224x224 --crop 0 keeps all of it, stretched" in line


def test_the_pictures_are_read_as_they_lie(tmp_path):
    """Nothing is converted, copied or written."""
    for name in DATASETS:
        root = drawn(tmp_path / name, name)
        before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for each in find_classes(DATASETS[name], root):
            check_class(DATASETS[name], root, each, WHOLE)
            for dataset in splits(root, name, each):
                assert all(Image.open(p).size for p in dataset.files) and len([*dataset]) == len(dataset)
        assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
