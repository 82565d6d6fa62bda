import matplotlib
import pytest
from matplotlib import font_manager

from datasets import mvtec
from experiment.methods import split_key
from experiment.report import style
from experiment.report.words import padded, shortened, width
from system.errors import UserError


@pytest.fixture
def lookup():
    style.chinese_font.cache_clear()
    yield
    style.chinese_font.cache_clear()


def test_fifteen_classes_and_more_are_told_apart():
    names = [*mvtec.CLASSES, "cloth", "nut"]
    lines = style.class_lines(names)
    assert list(lines) == [*mvtec.TEXTURES, *mvtec.OBJECTS, "cloth", "nut"]
    assert len({tuple(line.values()) for line in lines.values()}) == 17


def test_a_class_looks_the_same_whatever_else_is_drawn():
    everything = style.class_lines(mvtec.CLASSES)
    for chosen in (["screw"], ["zipper", "carpet", "mine"]):
        lines = style.class_lines(chosen)
        assert all(lines[n] == everything[n] for n in chosen if n in everything)
        assert len({tuple(line.values()) for line in lines.values()}) == len(chosen)


def test_the_look_is_undone():
    before = dict(matplotlib.rcParams)
    with style.look() as say:
        assert say("a", "甲") == "a" and matplotlib.rcParams["pdf.fonttype"] == 42
    with style.look("zh") as say:
        assert say("a", "甲") == "甲"
        assert matplotlib.rcParams["font.sans-serif"][0] in style.CHINESE_FONTS
    assert dict(matplotlib.rcParams) == before


def test_models_by_name():
    assert style.arch_labels(["resnet18", "vgg16"]) == {"resnet18": "ResNet18", "vgg16": "vgg16"}
    beside = style.arch_labels(["resnet18", "spade_wide_resnet50_2", "mahalanobis_ad_efficientnet_b4"])
    assert list(beside.values()) == [
        "PaDiM (ResNet18)", "SPADE (WideResNet50)", "MahalanobisAD (EfficientNet-B4)"
    ]  # fmt: skip
    assert [style.arch_short(key) for key in beside] == ["r18", "spade_wr50", "mahalanobis_ad_enb4"]
    assert split_key("spade_resnet18") == ("spade", "resnet18")


def test_sizes_are_printable():
    assert min(style.TEXT_SIZE, style.SMALL_SIZE, 0.7 * style.FORMULA_SIZE) >= 7


def test_a_font_of_the_system_is_taken_first(lookup, monkeypatch, tmp_path):
    file = tmp_path / "some.otf"
    file.write_bytes(b"OTTO" + bytes(12))
    entry = font_manager.FontEntry(str(file), name="Source Han Sans SC")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [entry])
    assert style.chinese_font() == ("Source Han Sans SC", True)


def test_the_font_of_the_package_is_found(lookup, monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda folders=None: _found(folders))
    assert style.chinese_font() == ("Noto Sans SC", False)


_search = font_manager.findSystemFonts


def _found(folders):
    return _search(folders) if folders else []


def test_no_font_is_one_line_with_the_remedy(lookup, monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda folders=None: [])
    with pytest.raises(UserError, match="python -m pip install zhplot") as caught, style.look("zh"):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "is_cff"),
    [
        (b"OTTO" + bytes(30), True),
        (b"\0\1\0\0" + bytes(30), False),
        (b"ttcf\0\1\0\0\0\0\0\1\0\0\0\x14" + bytes(4) + b"OTTO", True),
        (b"ttcf\0\1\0\0\0\0\0\1\0\0\0\x14" + bytes(4) + b"\0\1\0\0", False),
    ],
)
def test_cff_outlines_are_recognised(content, is_cff, tmp_path):
    (tmp_path / "font").write_bytes(content)
    assert style._is_cff(str(tmp_path / "font")) is is_cff


@pytest.mark.parametrize("text", ["transistor_housing_left_hand", "法兰盘_左侧_高温退火", "a钢b板c材d", "e\u0301" * 9])
def test_words_are_cut_in_the_middle(text):
    for columns in range(4, 40):
        short = shortened(text, columns)
        assert width(short) <= columns and (short == text) == (width(text) <= columns)
        if short != text:
            head, tail = short.split("…")
            assert text.startswith(head) and text.endswith(tail) and width(short) >= columns - 2
            assert width(padded(short, 40)) == 40
