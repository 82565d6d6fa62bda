import json

import pytest

import main
from datasets.mvtec import CLASSES
from experiment import run
from experiment.options import defaults, experiment
from experiment.report.published import Reference, departures, published, sentence, verdict

REFERENCE = published(True)
ARCHS = ["resnet18", "wide_resnet50_2"]
DEFAULTS = defaults()


def table(arch: str, **changes: tuple) -> dict:
    """Rows with the published figures to five decimals, but for the changed ones."""
    rows = {}
    for name in CLASSES:
        image, pixel = changes.get(name, (0.0004, -0.0004))
        there = REFERENCE.of(name, arch)
        rows[name] = {
            "image_rocauc": None if image is None else there["image"] + image,
            "pixel_rocauc": None if pixel is None else there["pixel"] + pixel,
        }
    return rows


def judge(rows: dict, arch: str = "resnet18", *given_options: str, reference: Reference = REFERENCE) -> dict:
    given = verdict(rows, reference, arch, departures(vars(experiment(["--arch", arch, *given_options])), DEFAULTS))
    assert json.loads(json.dumps(given)) == given and "\n" not in sentence(given)
    return given


@pytest.mark.parametrize("arch", ARCHS)
def test_all_within(arch):
    given = judge(table(arch), arch)
    assert given["reproduced"] is True and given["outside"] == {}
    assert sentence(given) == ("published table reproduced: image and pixel ROC AUC of all 15 classes are within 0.005")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_limit_belongs_to_the_table(sign):
    assert judge(table("resnet18", bottle=(0, sign * 0.005), wood=(sign * 0.005, 0)))["reproduced"] is True
    assert judge(table("resnet18", bottle=(0, sign * 0.00501)))["reproduced"] is False


def test_those_outside_are_named():
    given = judge(table("resnet18", screw=(-0.0123, 0.0004), zipper=(0.006, -0.0062)))
    assert given["reproduced"] is False
    assert given["outside"] == {"screw": {"image": -0.0123}, "zipper": {"image": 0.006, "pixel": -0.0062}}
    assert sentence(given) == (
        "published table not reproduced: 2 of 15 classes differ by more than 0.005: "
        "screw (image -0.0123), zipper (image +0.0060, pixel -0.0062)"
    )


def test_transistor_alone_has_been_reported_before():
    given = judge(table("resnet18", transistor=(-0.038, -0.009)))
    assert given["reproduced"] is False and set(given["outside"]) == {"transistor"}
    assert sentence(given) == (
        "published table not reproduced: 1 of 15 classes differ by more than 0.005: transistor (image -0.0380, pixel "
        "-0.0090); that transistor alone differs has been reported before (issue 6 of the public script, 2021)"
    )
    both = sentence(judge(table("resnet18", transistor=(-0.038, -0.009), tile=(0.006, 0))))
    alone = sentence(judge(table("resnet18", tile=(0.006, 0))))
    assert "reported before" not in both + alone


def test_missing_classes_and_figures():
    rows = table("resnet18")
    del rows["pill"], rows["tile"]
    assert judge(rows)["reason"] == "2 of 15 classes missing: pill, tile"
    given = judge({name: rows[name] for name in ("bottle", "wood")} | {"own": rows["wood"]})
    assert given["reproduced"] is None and given["reason"] == "13 of 15 classes missing"
    given = judge(table("resnet18", grid=(None, 0), cable=(0, None)))
    assert given["reproduced"] is None
    assert given["reason"] == "2 of 15 classes without image or pixel ROC AUC: cable, grid"


def test_other_weights_and_other_networks():
    given = judge(table("resnet18"), "resnet18", "--weights", "random", reference=published(False))
    assert sentence(given) == "no verdict on the published table: the weights are not ImageNet's"
    assert verdict(table("resnet18"), REFERENCE, "vgg16", [])["reason"] == "nothing is published for vgg16"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "7"], "--seed 7"),
        (["--rd", "99", "--precision", "bf16"], "--precision bf16, --rd 99"),
        (["--rd", "550"], "--rd 550"),
        (["--layers", "layer3,layer2"], "--layers layer3,layer2"),
        (["--resize", "256x512", "--crop", "0"], "--resize 256x512, --crop 0"),
        (["--crop", "224x200"], "--crop 224x200"),
        (["--protocol", "rd"], "--protocol rd"),
    ],
)
def test_other_options(options, words):
    given = judge(table("resnet18"), "resnet18", *options)
    assert given["reproduced"] is None and given["reason"] == f"other options than the published: {words}"


def test_options_that_change_no_result():
    options = ["--seed", "1024", "--rd", "100", "--batch_size", "4", "--num_workers", "0", "--no_features", "--refit"]
    options += ["--data_path", "there", "--save_path", "here", "--device", "cpu", "--figures", "none"]
    assert judge(table("resnet18"), "resnet18", *options, "--classes", "bottle")["reproduced"] is True
    for layers in ("layer1,layer2,layer3", "layer3,layer1,layer2", "layer2,layer1,layer2,layer3"):
        assert judge(table("resnet18"), "resnet18", "--layers", layers)["reproduced"] is True


def test_an_unknown_option_counts_as_one_that_changes_results():
    assert departures(DEFAULTS | {"flip": True}, DEFAULTS | {"flip": False}) == ["--flip"]


def test_the_end_of_a_run(sample, tmp_path, monkeypatch, capsys):
    """The sample's two classes, held against a table that no run can match."""
    figures = {name: {"resnet18_image": 2.0, "resnet18_pixel": 2.0} for name in ("flange", "linen", "all")}
    reference = Reference({"textures": (), "objects": (), "all": ("flange", "linen")}, figures)
    monkeypatch.setattr(run, "published", lambda *_: reference)
    options = ["--arch", "resnet18", "--weights", "random", "--figures", "none", "--no_features"]
    assert main.main([*options, "--data_path", str(sample), "--save_path", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results_resnet18.json").read_text(encoding="utf-8"))
    given = results["verdict"]
    assert given["reproduced"] is False
    assert given["outside"] == {name: row["difference"] for name, row in results["classes"].items()}
    assert sentence(given) in capsys.readouterr().out.splitlines()
