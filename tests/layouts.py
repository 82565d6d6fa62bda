"""Small folders in the layouts of the public data sets, each with its traps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 36)  # 宽、高
SQUARE = (slice(8, 20), slice(10, 24))  # 行、列：缺陷所在
OTHER = (slice(24, 32), slice(4, 12))  # 同一张图的另一处缺陷


def picture(path: Path, *places: tuple[slice, slice], size: tuple[int, int] = SIZE) -> None:
    """Grey noise from the path's name, white in the places of its defects."""
    rng = np.random.default_rng(list(path.as_posix()[-24:].encode()))
    values = rng.integers(90, 130, (*size[::-1], 3), dtype=np.uint8)
    for place in places:
        values[place] = 255
    save(path, values)


def mask(path: Path, *places: tuple[slice, slice], value: int = 255, size: tuple[int, int] = SIZE) -> None:
    """Zero but in the places."""
    values = np.zeros(size[::-1], np.uint8)
    for place in places:
        values[place] = value
    save(path, values)


def save(path: Path, values: np.ndarray) -> None:
    """A file in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def mvtec(root: Path) -> None:
    """Two classes of MVTec AD's layout; one has MVTec AD's name for a texture."""
    for name in ("tile", "widget"):
        for i in range(4):
            picture(root / name / f"train/good/{i:03d}.png")
        for i in range(2):
            picture(root / name / f"test/good/{i:03d}.png")
            picture(root / name / f"test/crack/{i:03d}.png", SQUARE)
            mask(root / name / f"ground_truth/crack/{i:03d}_mask.png", SQUARE)


def visa(root: Path) -> None:
    """Normal pictures of both splits in one folder, told apart by the table; masks that look black."""
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1"):
        for i in range(7):  # 第 6 张不在表中
            picture(root / name / f"Data/Images/Normal/{i:04d}.JPG")
        for i in range(2):
            picture(root / name / f"Data/Images/Anomaly/{i:03d}.JPG", SQUARE)
            mask(root / name / f"Data/Masks/Anomaly/{i:03d}.png", SQUARE, value=i + 1)
        rows += [f"{name},train,normal,{name}/Data/Images/Normal/{i:04d}.JPG," for i in (5, 1, 0, 3)]
        rows += [f"{name},test,normal,{name}/Data/Images/Normal/{i:04d}.JPG," for i in (2, 4)]
        for i in range(2):
            place = f"{name}/Data/{{}}/Anomaly/{i:03d}"
            rows.append(f"{name},test,anomaly,{place.format('Images')}.JPG,{place.format('Masks')}.png")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\r\n".join([*rows, ""]), encoding="utf-8")


def btad(root: Path) -> None:
    """BMP and PNG mixed; masks with the other suffix."""
    for name, suffix, other in (("01", "bmp", "png"), ("02", "png", "bmp")):
        for i in range(4):
            picture(root / name / f"train/ok/{i:04d}.{suffix}")
        for i in range(2):
            picture(root / name / f"test/ok/{i:04d}.{other}")
            picture(root / name / f"test/ko/{i:04d}.{suffix}", SQUARE)
            mask(root / name / f"ground_truth/ko/{i:04d}.{other}", SQUARE)


def mvtec_loco(root: Path) -> None:
    """Several masks a picture, whose values say which defect it is; validation pictures."""
    for name in ("pushpins", "screw_bag"):
        for i in range(4):
            picture(root / name / f"train/good/{i:03d}.png")
        for i in range(2):
            picture(root / name / f"validation/good/{i:03d}.png")
            picture(root / name / f"test/good/{i:03d}.png")
            picture(root / name / f"test/logical_anomalies/{i:03d}.png", SQUARE, OTHER)
            mask(root / name / f"ground_truth/logical_anomalies/{i:03d}/000.png", SQUARE, value=254)
            mask(root / name / f"ground_truth/logical_anomalies/{i:03d}/001.png", OTHER, value=13)
            picture(root / name / f"test/structural_anomalies/{i:03d}.png", OTHER)
            mask(root / name / f"ground_truth/structural_anomalies/{i:03d}/000.png", OTHER)


def mvtec_ad_2(root: Path) -> None:
    """Masks within the test folder; test pictures without labels beside it; validation pictures."""
    for name in ("can", "vial"):
        for i in range(4):
            picture(root / name / f"train/good/{i:03d}_regular.png")
        for i in range(2):
            picture(root / name / f"validation/good/{i:03d}_regular.png")
            picture(root / name / f"test_public/good/{i:03d}_overexposed.png")
            picture(root / name / f"test_public/bad/{i:03d}_regular.png", SQUARE)
            mask(root / name / f"test_public/ground_truth/bad/{i:03d}_regular_mask.png", SQUARE)
            picture(root / name / f"test_private/{i:03d}.png")
            picture(root / name / f"test_private_mixed/{i:03d}_mixed.png")


def mvtec_3d(root: Path) -> None:
    """Pictures, point clouds and masks in folders of each kind; masks of good pictures, too."""
    for name in ("bagel", "tire"):
        for split, kind, count in (
            ("train", "good", 4),
            ("validation", "good", 2),
            ("test", "good", 2),
            ("test", "cut", 2),
        ):
            for i in range(count):
                place, defect = root / name / split / kind, [SQUARE] if kind == "cut" else []
                picture(place / f"rgb/{i:03d}.png", *defect)
                (place / "xyz").mkdir(exist_ok=True)
                Image.fromarray(np.zeros(SIZE[::-1], np.float32)).save(place / f"xyz/{i:03d}.tiff")
                if split == "test":
                    mask(place / f"gt/{i:03d}.png", *defect)


def kolektor_sdd2(root: Path) -> None:
    """Tall pictures of several sizes; a defect among the training pictures; a copy that is no picture of the set."""
    defects = {"train": (2,), "test": (1, 3)}
    for split, first in (("train", 10000), ("test", 20000)):
        for i in range(5 if split == "train" else 4):
            size, places = (23 + i % 2, 63 - i % 2), (SQUARE,) if i in defects[split] else ()
            picture(root / split / f"{first + i}.png", *places, size=size)
            mask(root / split / f"{first + i}_GT.png", *places, size=size)
    mask(root / "train/10001_GT (copy).png", size=(23, 63))


def elpv(root: Path) -> None:
    """Both classes in one folder, told apart by the table, as are good and defective ones; no masks."""
    rows = []
    for i, (probability, kind) in enumerate(
        [(0, "mono"), (1, "mono"), (0, "poly"), (1 / 3, "mono"), (0, "mono"), (2 / 3, "poly"), (0, "mono")]
        + [(0, "poly"), (0, "mono"), (1 / 3, "poly")] * 2
        + [(0, "poly"), (0, "mono"), (1, "poly"), (2 / 3, "mono"), (0, "poly"), (0, "mono"), (0, "poly"), (0, "poly")]
    ):
        picture(root / f"images/cell{i:04d}.png", *((SQUARE,) if probability > 0.5 else ()))
        rows.append(f"images/cell{i:04d}.png  {float(probability):<18} {kind}")
    picture(root / "images/cell9999.png")  # 不在表中
    (root / "labels.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    draw.__name__: draw for draw in (mvtec, visa, btad, mvtec_loco, mvtec_ad_2, mvtec_3d, kolektor_sdd2, elpv)
} | {"elpv_lots": elpv}
WITHOUT_MASKS = ("elpv", "elpv_lots")
CLASSES = {
    "mvtec": ["tile"],  # MVTec 的类别优先
    "visa": ["candle", "pcb1"],
    "btad": ["01", "02"],
    "mvtec_loco": ["pushpins", "screw_bag"],
    "mvtec_ad_2": ["can", "vial"],
    "mvtec_3d": ["bagel", "tire"],
    "kolektor_sdd2": ["kolektor_sdd2"],
    "elpv": ["elpv_mono", "elpv_poly"],
    "elpv_lots": ["elpv_mono", "elpv_poly"],
}
