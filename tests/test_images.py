import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.images import DataError, highest_value, is_picture, read_header, read_picture
from datasets.masks import read_mask

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def save(array: np.ndarray, path, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_formats(tmp_path, suffix):
    path = save(RGB, tmp_path / f"x.{suffix}")
    assert is_picture(path)
    np.testing.assert_array_equal(read_picture(path), RGB)
    assert read_header(path).size == (60, 40)


@pytest.mark.parametrize(("kind", "suffix"), [("WEBP", "png"), ("PPM", "bmp"), ("PPM", "jpg"), ("WEBP", "tif")])
def test_another_format_under_the_suffix(tmp_path, kind, suffix):
    path, options = tmp_path / f"x.{suffix}", {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(RGB).save(path, kind, **options)
    np.testing.assert_array_equal(read_picture(path), RGB)
    np.testing.assert_array_equal(np.asarray(read_mask(path)) > 0, RGB.max(-1) > RGB.max() / 2)  # 很多种值：灰阶
    assert read_header(path).size == (60, 40) and is_picture(path)


def test_jpeg(tmp_path):
    path = save(np.full((16, 16, 3), 90, np.uint8), tmp_path / "x.jpg", quality=95)
    assert np.abs(np.asarray(read_picture(path)).astype(int) - 90).max() <= 1


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_rotation(tmp_path, orientation, turns, suffix):
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:8] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(picture, tmp_path / f"x.{suffix}", exif=exif)
    wanted = np.rot90(picture, turns)
    assert np.abs(np.asarray(read_picture(path)).astype(int) - wanted).max() <= 6
    assert read_header(path).size == wanted.shape[1::-1]


def test_an_orientation_behind_the_pixels(tmp_path):
    """Legal in PNG, but the checks before a run read only the header."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = save(RGB, tmp_path / "x.png", exif=exif).read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    (tmp_path / "x.png").write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    with pytest.raises(DataError, match=r"x\.png.*orientation stands behind its pixels"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_and_16_bit(tmp_path, suffix):
    wanted = np.repeat(GREY[..., None], 3, 2)
    np.testing.assert_array_equal(read_picture(save(GREY, tmp_path / f"8.{suffix}")), wanted)
    sixteen = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_picture(save(sixteen, tmp_path / f"16.{suffix}")), wanted)


def test_1_bit_palette_and_cmyk(tmp_path):
    path = save(GREY > 100, tmp_path / "1.png")
    np.testing.assert_array_equal(np.asarray(read_picture(path))[..., 1], (GREY > 100) * 255)
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = np.asarray(read_picture(tmp_path / "c.jpg"))[4, 4].astype(int)
    assert red > 230 and green < 30 and blue < 30


def test_transparency_lies_on_white(tmp_path):
    rgba = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    rgba[:10, :, 3] = 0
    picture = np.asarray(read_picture(save(rgba, tmp_path / "x.png")))
    np.testing.assert_array_equal(picture[10:], RGB[10:])
    assert (picture[:10] == 255).all()


def test_masks_are_what_is_not_zero(tmp_path):
    defect = GREY > 200
    for name, array in {
        "255": defect * np.uint8(255),
        "1": defect * np.uint8(1),
        "16": defect * np.uint16(1),
        "bool": defect,
        "blue": np.dstack([np.zeros_like(GREY), np.zeros_like(GREY), defect * np.uint8(1)]),
        "alpha": np.dstack([np.full_like(RGB, 255), defect * np.uint8(255)]),
    }.items():
        mask = read_mask(save(array, tmp_path / f"{name}.png"))
        np.testing.assert_array_equal(np.asarray(mask) > 0, defect, err_msg=name)
    palette = Image.fromarray(defect.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(np.asarray(read_mask(tmp_path / "p.png")) > 0, defect)


def test_broken_files_are_named(tmp_path):
    path = save(RGB, tmp_path / "cut off.png")
    path.write_bytes(path.read_bytes()[:700])
    for name, content in {"empty.png": b"", "text.png": b"hello", "folder.jpg": None}.items():
        if content is None:
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(content)
    for name in ("cut off.png", "empty.png", "text.png", "folder.jpg", "absent.png"):
        for read in (read_picture, read_mask):
            with pytest.raises(DataError, match=name) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
    assert read_header(path).size == (60, 40)
    with pytest.raises(DataError, match=r"text\.png"):
        read_header(tmp_path / "text.png")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="convert it to 8 or 16 bits"):
        read_picture(tmp_path / "float.tif")


def test_deep_tiffs_look_as_they_should(tmp_path):
    path = tmp_path / "x.tif"
    values = np.full((8, 8), 60000, np.uint16)
    save(values, path, tiffinfo={262: 0})
    assert np.asarray(read_picture(path)).max() == 255 - 60000 // 256
    save(np.full((8, 8), 200, np.int32), path)
    with pytest.raises(DataError, match="convert it to 8 or 16 bits"):
        read_picture(path)


def test_a_jpeg_with_two_pictures_is_rotated_too(tmp_path):
    picture, exif = Image.fromarray(RGB), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[picture], exif=exif)
    assert Image.open(tmp_path / "x.jpg").format == "MPO"
    assert read_header(tmp_path / "x.jpg").size == read_picture(tmp_path / "x.jpg").size == (40, 60)


def test_which_files_count(tmp_path):
    assert is_picture(tmp_path / "a.JPeG")
    assert not any(is_picture(tmp_path / n) for n in ("a.txt", "a", "._a.png", "Thumbs.db", "a.png.part"))


def deep_png(path, values):
    """A PNG of 16 bits a channel: Pillow writes such colours in no way."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    )
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "colour.png", "alpha.png", "colour.tif", "colour_be.tif"])
def test_bits(tmp_path, kind, bits):
    """0 to 2^bits − 1 is black to white, of deep grey and deep colours; what has more bits is an error."""
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 1 << bits, (20, 30, 3), np.uint16, endpoint=False)
    values[0, 0] = (1 << bits) - 1
    path = tmp_path / kind
    if "grey" in kind:
        save(values[..., 0], path)
        wanted = np.repeat(values[..., :1] >> (bits - 8), 3, 2)
    else:
        wanted = values >> (bits - 8)
        if kind.endswith("png"):
            opaque = np.full((20, 30, 1), 65535, np.uint16)
            deep_png(path, np.dstack([values, opaque]) if "alpha" in kind else values)
        else:
            tifffile.imwrite(path, values, photometric="rgb", byteorder=">" if "be" in kind else "<")
    np.testing.assert_array_equal(read_picture(path, bits), wanted)
    assert highest_value(path) == (1 << bits) - 1 and read_header(path).bits == 16
    if bits > 8:
        with pytest.raises(DataError, match=rf"{path.name}.*to {(1 << bits) - 1}, not 0 to {(1 << (bits - 1)) - 1}"):
            read_picture(path, bits - 1)
    np.testing.assert_array_equal(
        read_picture(path), np.broadcast_to(wanted if bits == 16 else read_picture(path, 16), wanted.shape)
    )


def test_bits_of_shallow_pictures_mean_nothing(tmp_path):
    for name in ("x.png", "x.jpg", "x.tif"):
        path = save(RGB, tmp_path / name)
        np.testing.assert_array_equal(read_picture(path, 12), read_picture(path))
        assert read_header(path).bits == 8


def test_deep_colours_are_turned_as_a_whole(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (6, 9, 3), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tif", 12), np.rot90(values >> 4, 3))
