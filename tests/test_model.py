"""Parity with the public script and with a float64 textbook, and what must not change a result."""

import numpy as np
import oracle
import pytest
import torch

from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing
from experiment.files.gaussians import DamagedError
from experiment.saving import load, save
from padim import BLOCK
from padim.metrics import evaluate_scores
from padim.model import PaDiM

SOURCE = {"preprocessing": Preprocessing().record(), "training_files": "0"}


def images(root, name, train, batch_size=32, workers=1):
    return (
        image for image, _, _ in batches(MVTecDataset(root, name, "train" if train else "test"), batch_size, workers)
    )


def scores(model, batches):
    return np.concatenate([s.maps for s in model.score(batches)])


def relative(a, b) -> float:
    """Largest deviation, relative to the largest entry."""
    return float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def small() -> PaDiM:
    return PaDiM("resnet18", "random")


@pytest.fixture(scope="module")
def reference(small, sample):
    """Maps of the sample's object class, and the covariance before the factorisation."""
    small.fit(images(sample, "flange", True))
    covariance = small.state()[1].clone()
    return scores(small, images(sample, "flange", False)), covariance


@pytest.mark.parametrize("arch", [pytest.param("resnet18", marks=pytest.mark.lowest), "wide_resnet50_2"])
def test_golden_parity(arch, shared):
    golden = np.load(shared / "golden" / f"hazelnut_{arch}.npz")
    model = PaDiM(arch, "random")
    if model.weights_sha256 != str(golden["weights_sha256"]):
        pytest.skip("this random generator makes other weights")
    assert model.dimensions == golden["idx"].tolist()

    model.fit(images(shared / "mvtec", "hazelnut", True))
    at = torch.from_numpy(golden["positions"])
    mean, covariance = model.state()
    assert relative(mean[at].T, golden["mean"]) < 1e-4
    assert relative(covariance[at].diagonal(dim1=1, dim2=2).T, golden["cov_diag"]) < 1e-4
    assert relative(covariance[at[4], :100, :100], golden["cov0"]) < 1e-4

    maps = scores(model, images(shared / "mvtec", "hazelnut", False))
    assert (np.abs(maps - golden["raw_maps"]) / golden["raw_maps"]).max() < 1e-4
    test = MVTecDataset(shared / "mvtec", "hazelnut", "test")
    pixel = evaluate_scores(maps, np.stack([test[i][2][0] for i in range(len(test))]))
    image = evaluate_scores(maps.max((1, 2)), test.labels)
    assert round(pixel.rocauc, 4) == round(float(golden["pixel_rocauc"]), 4)
    assert round(image.rocauc, 4) == round(float(golden["image_rocauc"]), 4)
    low, high = maps.min(), maps.max()
    assert (pixel.threshold - low) / (high - low) == pytest.approx(float(golden["threshold"]), abs=1e-3)


@pytest.mark.lowest
def test_the_float64_textbook(small, sample):
    train, test = (torch.cat(list(images(sample, "linen", split))) for split in (True, False))
    chosen = oracle.draw(448, 100)
    wanted = oracle.raw_maps(*(oracle.features("resnet18", x)[:, chosen] for x in (train, test[:3])))
    assert small.dimensions == chosen
    small.fit([train])
    maps = scores(small, [test[:3]])
    assert (np.abs(maps - wanted) / wanted).max() < 1e-4


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2), (32, 0)])
def test_batches_and_workers_do_not_matter(small, sample, reference, batch_size, workers):
    small.fit(images(sample, "flange", True, batch_size, workers))
    assert relative(small.state()[1], reference[1].numpy()) < 1e-4
    maps = scores(small, images(sample, "flange", False, batch_size, workers))
    assert (np.abs(maps - reference[0]) / reference[0]).max() < 1e-4


def test_workers_and_repetition_change_no_bit(small, sample, reference):
    for workers in (0, 2):
        small.fit(images(sample, "flange", True, 32, workers))
        assert torch.equal(small.state()[1], reference[1])
        assert np.array_equal(scores(small, images(sample, "flange", False, 32, workers)), reference[0])


@pytest.mark.slow
def test_blocks_end_inside_batches(small, sample):
    """More images than a block, in batches that do not divide it."""
    train = torch.cat(list(images(sample, "flange", True))).repeat(BLOCK // 8 + 2, 1, 1, 1)
    train = train + 0.05 * torch.randn(train.shape, generator=torch.Generator().manual_seed(0))
    small.fit(train.split(24))
    wanted = small.state()[1].clone()
    assert small.count == len(train) > BLOCK
    small.fit(train.split(37))
    assert relative(small.state()[1], wanted.numpy()) < 1e-5
    assert len(scores(small, train.split(50))) == len(train)


def test_saved_and_loaded_features_give_the_same_scores(small, sample, reference, tmp_path):
    path = tmp_path / "train_flange.pkl"
    save(small.fit(images(sample, "flange", True)), path, **SOURCE)
    other = PaDiM("resnet18", "random")
    load(other, path)
    assert other.count == 8
    assert np.array_equal(scores(other, images(sample, "flange", False)), reference[0])


def test_images_of_another_size_are_an_error():
    """They would be scored at other places than they were fitted at."""
    small, large = (torch.zeros(3, 3, side, side) for side in (224, 256))
    for reduction in ("random", "pca"):
        model = PaDiM("resnet18", "random", dimensions=5, reduction=reduction)
        with pytest.raises(ValueError, match=r"256x256.*224x224"):
            model.fit([small, large])
        if reduction == "random":
            model.fit([small])
            with pytest.raises(ValueError, match=r"256x256.*224x224"):
                list(model.score([large]))
            with pytest.raises(ValueError, match=r"256x224.*224x224"):
                list(model.score([small, torch.zeros(1, 3, 256, 224)]))


def test_order_of_calls(small, sample, tmp_path):
    fresh = PaDiM("resnet18", "random", dimensions=10)
    with pytest.raises(ValueError, match="no Gaussian"):
        next(fresh.score([]))
    with pytest.raises(ValueError, match="no Gaussian"):
        save(fresh, tmp_path / "x.pkl")
    fresh.fit(images(sample, "flange", True))
    assert not list(tmp_path.iterdir())
    save(fresh, tmp_path / "x.pkl", **SOURCE)
    before = (tmp_path / "x.pkl").read_bytes()
    maps = scores(fresh, images(sample, "flange", False))
    save(fresh, tmp_path / "x.pkl", **SOURCE)  # 打过分之后存的，一个字节也不差
    assert (tmp_path / "x.pkl").read_bytes() == before
    assert np.array_equal(scores(fresh, images(sample, "flange", False)), maps)
    with pytest.raises(DamagedError, match=r"\(10, 3136\)"):
        load(small, tmp_path / "x.pkl")


def test_every_image_passes_the_backbone_once(sample):
    """A count that cannot drift; and nothing as large as all channels of the images at 56×56 is ever allocated."""
    model = PaDiM("resnet18", "random", dimensions=20)
    seen, largest = [], [0]
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.numel())
            return out

    with Sizes():
        model.fit(images(sample, "flange", True, 8))
    assert seen == [8]
    assert 0 < largest[0] < 8 * 448 * 56 * 56
    scores(model, images(sample, "flange", False, 8))
    assert seen == [8, 8, 1]
