"""Studies from one pass of the backbone give what separate runs give."""

import json
import shutil

import numpy as np
import pytest
import torch

import ablation
import main
from experiment import memory
from experiment.files.folder import Store
from padim.model import ALL, PaDiM
from padim.variants import Variant, all_components, layer_choices, maps_of, variants

FAST = ["--arch", "resnet18", "--weights", "random", "--classes", "flange", "--num_workers", "0"]
TWO = ["--layers", "layer2,layer3", "--resize", 96, "--crop", 0]  # 位置少，工夫少；方法不变


def run(sample, out, *options) -> int:
    return ablation.main([*FAST, "--data_path", str(sample), "--save_path", str(out), *map(str, options)])


def separate(sample, out, *options) -> dict:
    """The row of a run of the whole experiment."""
    words = [*FAST, "--data_path", str(sample), "--save_path", str(out), "--figures", "none", "--no_features"]
    assert main.main([*words, *map(str, options)]) == 0
    row = json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))["classes"]["flange"]
    return {"image": row["image_rocauc"], "pixel": row["pixel_rocauc"]}


@pytest.fixture(scope="module")
def studies(sample, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("ablation")
    assert run(sample, out, *TWO, "--dimensions", 40) == 0
    return json.loads((out / "ablation_resnet18.json").read_text(encoding="utf-8"))["studies"]


@pytest.mark.parametrize(
    ("study", "label", "options"),
    [
        ("layers", "random 100", [*TWO, "--rd", 100]),
        ("seeds", "seed 1025", [*TWO, "--rd", 100, "--seed", 1025]),
        ("layers", "layer2 + layer3", TWO),
        ("dimensions", "pca 40", [*TWO, "--rd", 40, "--reduction", "pca"]),
    ],
)
def test_the_same_as_separate_runs(studies, sample, tmp_path, study, label, options):
    wanted = separate(sample, tmp_path, *options)
    assert studies[study]["classes"]["flange"][label] == pytest.approx(wanted, abs=1e-4)


SMALL = ["--resize", 64, "--crop", 0]


@pytest.fixture(scope="module")
def layers(sample, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("layers")
    assert run(sample, out, *SMALL, "--study", "layers", "--rd", 20) == 0
    study = json.loads((out / "ablation_resnet18.json").read_text(encoding="utf-8"))["studies"]["layers"]
    assert {v["label"]: v["grid"] for v in study["variants"]}["layer2 + layer3"] == [8, 8]
    return study["classes"]["flange"]


@pytest.mark.parametrize("chosen", ["layer2", "layer3", "layer2,layer3"])
def test_layers_without_the_first_are_the_same_as_separate_runs(layers, sample, tmp_path, chosen):
    wanted = separate(sample, tmp_path, *SMALL, "--layers", chosen)
    assert layers[chosen.replace(",", " + ")] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("arch", "size", "added"),
    [
        ("resnet18", (64, 64), False), ("resnet18", (33, 49), True),
        pytest.param("resnet18", (71, 115), True, marks=pytest.mark.slow),
        pytest.param("efficientnet_b5", (64, 96), False, marks=pytest.mark.slow),
        pytest.param("efficientnet_b5", (75, 110), False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_maps_of_every_choice_of_layers(arch, size, added):
    """Raw maps against a model of its own, also where the layers' sizes are no multiples of each other."""
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(n, 3, *size, generator=generator) for n in (6, 3))
    layers = [layer.name for layer in PaDiM(arch, "random", ALL, size=size).layers]
    model = PaDiM(arch, "random", ALL, size=size, also=layer_choices(layers))
    rows = variants(model.layers, "layers", 20, [], 1024)
    assert (model.positions > model.grid[0] * model.grid[1]) == added
    model.fit([train])
    features = [torch.cat(layer) for layer in zip(*model.features([test]), strict=True)]
    total = 0
    for variant in rows:
        maps = maps_of(model, variant, features)
        if variant.reduction == "sum":
            wanted = total
        else:
            kept = variant.dimensions if variant.reduction == "random" else ALL
            own = PaDiM(arch, "random", kept, size=size, layers=variant.layers).fit([train])
            assert variant.grid == list(own.grid) and variant.dimensions == len(own.dimensions)
            wanted = np.concatenate([scores.maps for scores in own.score([test])])
            total = total + (wanted if len(variant.layers) == 1 else 0)
        np.testing.assert_allclose(maps, wanted, rtol=1e-4)
    components = all_components(model)
    assert components.shape == (model.channels, model.channels)
    whole = maps_of(model, Variant("", variant.layers, "pca", model.channels), features, components)
    np.testing.assert_allclose(whole, maps_of(model, rows[-3], features), rtol=1e-3)  # 正交变换不改变距离


@pytest.mark.parametrize("kind", ["full", "diagonal", "shared", "identity"])
def test_simpler_covariances_by_their_definition(kind):
    """In float64, position by position, from the Gaussian of a model that keeps the same channels."""
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(n, 3, 64, 64, generator=generator) for n in (8, 3))
    model = PaDiM("resnet18", "random", ALL, size=(64, 64)).fit([train])
    row = next(v for v in variants(model.layers, "covariance", 20, [], 1024) if v.covariance == kind)
    features = [torch.cat(layer) for layer in zip(*model.features([test]), strict=True)]
    found = maps_of(model, row, features)

    own = PaDiM("resnet18", "random", 20, size=(64, 64)).fit([train])
    mean, covariance = (part.double() for part in own.state())
    block = torch.cat(list(own._blocks([test])), 1).double()  # (P, 3, d)
    matrices = {
        "full": covariance,
        "diagonal": torch.stack([torch.diag(torch.diag(c)) for c in covariance]),
        "shared": covariance.mean(0).expand_as(covariance),
        "identity": torch.eye(20, dtype=torch.float64).expand_as(covariance),
    }
    deviations = block - mean[:, None]
    squares = torch.einsum("pni,pij,pnj->pn", deviations, torch.linalg.inv(matrices[kind]), deviations)
    wanted = own._maps(squares.sqrt().float()).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    euclidean = torch.linalg.vector_norm(deviations, dim=2)
    assert (kind == "identity") == torch.allclose(squares.sqrt(), euclidean)


def test_two_studies_at_once(sample, tmp_path, capsys):
    """One writer at a time, whatever it writes; what a killed one left is deleted."""
    leftover = tmp_path / "ablation_resnet18.json.123.tmp"
    leftover.touch()
    with Store(tmp_path, "resnet18").locked():
        assert not leftover.exists()
        assert run(sample, tmp_path, *SMALL, "--study", "seeds") == 2
        assert "being written by process" in capsys.readouterr().err
    leftover.touch()
    assert run(sample, tmp_path, *SMALL, "--study", "dimensions", "--dimensions", 5) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ablation_resnet18.json"]


def test_a_network_of_few_channels(sample, tmp_path):
    options = ["--arch", "mnasnet0_5", "--layers", "layers.6", *SMALL]
    assert run(sample, tmp_path, *options) == 0
    studies = json.loads((tmp_path / "ablation_mnasnet0_5.json").read_text(encoding="utf-8"))["studies"]
    assert [v["label"] for v in studies["dimensions"]["variants"]] == ["all"]
    assert studies["layers"]["variants"][-1]["dimensions"] == 8


def test_a_foreign_file_is_not_overwritten(sample, tmp_path, capsys):
    path = tmp_path / "ablation_resnet18.json"
    for content in ("oops", '{"configuration": [], "studies": {}}', '{"configuration": {}}'):
        path.write_text(content, encoding="utf-8")
        assert run(sample, tmp_path, *SMALL, "--study", "layers") == 2
        assert "ablation_resnet18.json" in capsys.readouterr().err and path.read_text(encoding="utf-8") == content


@pytest.mark.slow
def test_the_paper_s_layers_and_dimensions(sample, tmp_path):
    assert run(sample, tmp_path / "studies", "--study", "layers") == 0
    content = json.loads((tmp_path / "studies" / "ablation_resnet18.json").read_text(encoding="utf-8"))
    figures = content["studies"]["layers"]["classes"]["flange"]
    assert figures["random 100"] == pytest.approx(separate(sample, tmp_path / "a"), abs=1e-4)
    assert figures["layer1"] == pytest.approx(separate(sample, tmp_path / "b", "--layers", "layer1"), abs=1e-4)


@pytest.mark.lowest
def test_the_rows_of_the_studies(studies):
    assert [v["label"] for v in studies["layers"]["variants"]] == [
        "layer2", "layer3", "layer2 + layer3", "sum of the maps", "random 100",
    ]  # fmt: skip
    assert [v["label"] for v in studies["dimensions"]["variants"]] == ["random 40", "pca 40", "all"]
    seeds = studies["seeds"]
    assert [v["seed"] for v in seeds["variants"]] == list(range(1024, 1034))
    pixel = [row["pixel"] for row in seeds["classes"]["flange"].values()]
    assert seeds["spread"]["pixel"] == pytest.approx(
        {"mean": np.mean(pixel), "std": np.std(pixel, ddof=1), "min": min(pixel), "max": max(pixel)}
    )


def test_studies_are_merged_and_not_mixed(sample, tmp_path, capsys):
    path = tmp_path / "ablation_resnet18.json"
    assert run(sample, tmp_path, *TWO, "--study", "layers") == 0
    assert run(sample, tmp_path, *TWO, "--study", "dimensions", "--dimensions", 20, "--classes", "linen") == 0
    output = capsys.readouterr().out
    assert "sum of the maps" not in output.split("dimensions,")[1] and str(path) in output
    content = json.loads(path.read_text(encoding="utf-8"))["studies"]
    assert list(content["layers"]["classes"]) == ["flange"] and list(content["dimensions"]["classes"]) == ["linen"]
    before = path.read_bytes()
    assert run(sample, tmp_path, "--study", "layers", "--layers", "layer3") == 2
    assert "layers layer2, layer3, this run has layers layer3" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_studies_of_two_data_sets_are_not_mixed(sample, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(sample, out, *TWO, "--study", "seeds", "--rd", 5) == 0
    other = tmp_path / "other"
    shutil.copytree(sample / "linen", other / "linen")
    before = (out / "ablation_resnet18.json").read_bytes()
    assert run(other, out, *TWO, "--study", "seeds", "--rd", 5, "--classes", "linen") == 2
    line = capsys.readouterr().err
    assert str(other) in line and str(sample) in line and "--refit" in line
    assert (out / "ablation_resnet18.json").read_bytes() == before


ONE = [*SMALL, "--layers", "layer1"]


def content_of(out) -> dict:
    return json.loads((out / "ablation_resnet18.json").read_text(encoding="utf-8"))


def test_figures_of_pictures_that_have_changed_go(sample, tmp_path, capsys):
    """Also from the studies that are not computed again: the file says of which pictures its figures are."""
    data, out = shutil.copytree(sample, tmp_path / "data"), tmp_path / "out"
    both, given = ["--classes", "flange", "linen"], [*ONE, "--rd", 5, "--study"]
    assert run(data, out, *given, "seeds", *both) == 0 and run(data, out, *given, "dimensions") == 0
    before = content_of(out)
    (data / "flange/train/good/000.png").unlink()
    capsys.readouterr()
    assert run(data, out, *given, "layers") == 0
    said = capsys.readouterr().out
    assert "flange: its pictures have changed" in said and "--study seeds dimensions" in said
    after = content_of(out)
    assert {study: list(each["classes"]) for study, each in after["studies"].items()} == {
        "seeds": ["linen"],
        "layers": ["flange"],
    }
    assert after["studies"]["seeds"]["averages"] == after["studies"]["seeds"]["classes"]["linen"]
    assert after["data"]["flange"] != before["data"]["flange"] and after["data"]["linen"] == before["data"]["linen"]
    assert run(data, out, *given, "layers") == 0 and "have changed" not in capsys.readouterr().out


def test_a_study_with_other_rows(sample, tmp_path, capsys):
    """It takes the place of the stored one only where no other class loses its figures, or with --refit."""
    both, given = ["--classes", "flange", "linen"], [*ONE, "--study", "dimensions", "--dimensions"]
    assert run(sample, tmp_path, *given, 5, *both) == 0
    assert run(sample, tmp_path, *ONE, "--study", "seeds", "--rd", 5) == 0
    before = content_of(tmp_path)
    assert run(sample, tmp_path, *given, 6) == 2
    line = capsys.readouterr().err
    assert "study of dimensions with other rows, for linen, too" in line and "--refit" in line
    assert content_of(tmp_path) == before
    assert run(sample, tmp_path, *given, 6, "--refit") == 0  # 同样的配置：别的研究仍在
    after = content_of(tmp_path)
    assert list(after["studies"]["dimensions"]["classes"]) == list(after["data"]) == ["flange"]
    assert after["studies"]["seeds"] == before["studies"]["seeds"]
    assert run(sample, tmp_path, *given, 7) == 0
    assert "random 7" in content_of(tmp_path)["studies"]["dimensions"]["averages"]


def test_what_refit_replaces(sample, tmp_path, capsys):
    """Studies of another configuration; never what is no file of studies."""
    path, given = tmp_path / "ablation_resnet18.json", [*SMALL, "--study", "seeds", "--rd", 5, "--refit"]
    path.write_text("oops", encoding="utf-8")
    assert run(sample, tmp_path, *given) == 2
    assert "move it away" in capsys.readouterr().err and path.read_text(encoding="utf-8") == "oops"
    path.unlink()
    assert run(sample, tmp_path, *given, "--classes", "linen") == 0
    assert run(sample, tmp_path, *given, "--layers", "layer3") == 0
    assert list(content_of(tmp_path)["studies"]["seeds"]["classes"]) == ["flange"]


def test_what_does_not_fit_is_refused(sample, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 2_000_000_000)
    assert run(sample, tmp_path / "out") == 2
    assert "all 448 channels" in (line := capsys.readouterr().err) and "fewer --layers" in line
    monkeypatch.undo()
    assert run(sample, tmp_path / "out", *TWO, "--rd", 385) == 2
    assert "385 dimensions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
