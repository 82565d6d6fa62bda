"""Principal components: against scikit-learn, and through a run."""

import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn.functional import interpolate

import main
from padim.embedding import Projection
from padim.model import PaDiM

RUN = ["--arch", "resnet18", "--weights", "random", "--classes", "linen", "--figures", "none", "--num_workers", "0"]


def test_the_projection_of_the_concatenation():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 8, 6), (4, 4, 3), (5, 3, 2)]
    features = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    components = torch.randn(7, 12, generator=generator)
    out = torch.full((48, 4, 7), -1.0)
    Projection(shapes, components)(features, out[:, 1:3])
    whole = torch.cat([features[0], *(interpolate(f, (8, 6)) for f in features[1:])], 1)
    wanted = torch.einsum("dc,bchw->hwbd", components, whole).flatten(0, 1)
    torch.testing.assert_close(out[:, 1:3], wanted, rtol=1e-5, atol=1e-5)
    assert (out[:, [0, 3]] == -1).all()


def test_components_are_scikit_learns():
    model = PaDiM("resnet18", "random", 10, size=(64, 64), layers=["layer1", "layer3"], reduction="pca")
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.fit(images.split(4))
    with torch.inference_mode():
        fine, coarse = model.backbone(images)
    rows = torch.cat([fine, interpolate(coarse, fine.shape[2:])], 1).permute(0, 2, 3, 1).flatten(0, 2)
    wanted = PCA(10, svd_solver="full").fit(rows.double().numpy()).components_
    ours = model.components.numpy()
    np.testing.assert_allclose(np.abs(np.sum(wanted * ours, axis=1)), 1, atol=1e-3)
    assert (ours[np.arange(10), np.abs(ours).argmax(1)] > 0).all()


def test_a_run_with_principal_components(sample, tmp_path, capsys):
    out = tmp_path / "out"
    words = [*RUN, "--data_path", str(sample), "--save_path", str(out), "--rd", "20", "--reduction", "pca"]
    assert main.main(words) == 0
    maps = np.load(out / "scores_resnet18" / "linen_maps.npy")
    record = json.loads((out / "temp_resnet18" / "train_linen.json").read_text(encoding="utf-8"))
    assert record["reduction"] == "pca" and record["dimensions"] == list(range(20))
    path = out / "temp_resnet18" / "train_linen_components.npy"
    assert np.load(path).shape == (20, 448)
    capsys.readouterr()
    assert main.main(words) == 0
    assert "using the stored features" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(out / "scores_resnet18" / "linen_maps.npy"), maps)
    # 不完整的一组：重新拟合
    path.write_bytes(path.read_bytes()[:-7])
    assert main.main(words) == 0
    assert "is damaged" in capsys.readouterr().err and np.load(path).shape == (20, 448)
    # 另一种降维不覆盖它
    assert main.main(words[:-2]) == 2
    assert "pca reduction, this run has random reduction" in capsys.readouterr().err
    assert main.main([*words[:-2], "--refit"]) == 0
    assert not path.exists()


def test_batches_that_can_be_iterated_only_once_are_an_error():
    model = PaDiM("resnet18", "random", 10, size=(64, 64), reduction="pca")
    with pytest.raises(ValueError, match="iterated twice"):
        model.fit(iter([torch.rand(3, 3, 64, 64)]))
