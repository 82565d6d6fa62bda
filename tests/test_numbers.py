"""Numbers that go wrong, and properties that hold for any numbers."""

import json
from itertools import pairwise
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import main
from experiment.files.gaussians import check_covariances, read_fitted
from padim.anomaly_map import AnomalyMap
from padim.gaussian import GaussianStream
from padim.mahalanobis import Gaussians
from padim.weights import load_network
from system.errors import UserError

quick = settings(max_examples=60, deadline=None, derandomize=True)


def fit(*blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    stream = GaussianStream(*blocks[0].shape[::2], torch.device("cpu"))
    for block in blocks:
        stream.update(block)
    return stream.finish()


@st.composite
def splits(draw) -> tuple[torch.Tensor, list[int]]:
    """Embeddings (P, N, d) of any scale and offset, and the sizes of the blocks they come in."""
    positions, count, dimensions = (draw(st.integers(low, high)) for low, high in ((1, 40), (2, 40), (1, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(positions, count, dimensions, generator=generator)
    x = x * 10 ** draw(st.floats(-3, 3)) + 10 ** draw(st.floats(-3, 3)) * draw(st.sampled_from([-1, 0, 1]))
    cuts = draw(st.sets(st.integers(1, count - 1)))
    edges = [0, *sorted(cuts), count]
    return x, [b - a for a, b in pairwise(edges)]


def tolerance(x: np.ndarray, covariance: np.ndarray) -> float:
    """Float32 rounding: of the covariance, and of deviations from a mean as large as the data."""
    spread = x.std() + 1e-30
    return 1e-5 * np.abs(covariance).max() + 20 * 2**-24 * np.abs(x).max() * spread


@quick
@given(splits())
def test_any_split_of_any_data_is_one_batch(case):
    x, sizes = case
    mean, covariance = fit(*x.split(sizes, dim=1))
    exact = x.double().numpy()
    wanted = np.stack([np.cov(p, rowvar=False).reshape(x.shape[2], -1) for p in exact]) + 0.01 * np.eye(x.shape[2])
    np.testing.assert_allclose(mean, exact.mean(1), rtol=1e-6, atol=1e-6 * np.abs(exact).max())
    np.testing.assert_allclose(covariance, wanted, rtol=0, atol=tolerance(exact, wanted))
    check_covariances(Path(), covariance.numpy())


@quick
@given(splits(), st.randoms(use_true_random=False))
def test_the_order_of_training_images_is_only_rounding(case, random):
    x, sizes = case
    order = list(range(x.shape[1]))
    random.shuffle(order)
    (mean, covariance), (other_mean, other) = fit(*x.split(sizes, dim=1)), fit(*x[:, order].split(sizes, dim=1))
    np.testing.assert_allclose(other_mean, mean, rtol=1e-6, atol=1e-6 * float(x.abs().max()))
    np.testing.assert_allclose(other, covariance, rtol=0, atol=tolerance(x.numpy(), covariance.numpy()))


@quick
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_the_map_of_rotated_positions_is_the_rotated_map(seed, turns):
    distances = torch.rand(2, 14, 14, generator=torch.Generator().manual_seed(seed)) * 10
    anomaly_map = AnomalyMap((14, 14), (56, 56), torch.device("cpu"))
    rotated = anomaly_map(torch.rot90(distances, turns, (1, 2)).contiguous())
    torch.testing.assert_close(rotated, torch.rot90(anomaly_map(distances), turns, (1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [[2], [3], [7, 7], [128, 128, 5]])
def test_constant_features_have_exactly_the_regulariser(sizes):
    value = torch.rand(70, 1, 130, generator=torch.Generator().manual_seed(0)) * 37
    mean, covariance = fit(*(value.expand(70, m, 130) for m in sizes))
    assert torch.equal(mean, value[:, 0])
    assert torch.equal(covariance, (0.01 * torch.eye(130)).expand(70, 130, 130))
    distances = Gaussians(mean, covariance).distances(value)
    assert torch.equal(distances, torch.zeros(70, 1))


def test_duplicates_and_fewer_images_than_dimensions():
    """N ≤ d: the regulariser alone makes every covariance positive definite."""
    x = torch.randn(5, 4, 300, generator=torch.Generator().manual_seed(0)) * 3
    for training in (x[:, :2], x, x[:, :1].expand(5, 3, 300), torch.cat([x, x, x], 1)):
        mean, covariance = fit(training)
        distances = Gaussians(mean, covariance).distances(training)
        n = training.shape[1]
        assert torch.isfinite(distances).all() and distances.max() <= (n - 1) / n**0.5 * 1.001


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("sizes", [[9], [2, 7]])
def test_features_that_are_not_finite_are_refused_with_their_position(bad, sizes):
    x = torch.randn(70, 9, 4, generator=torch.Generator().manual_seed(0))
    x[41, 3, 1] = bad
    with pytest.raises(UserError, match="position 41 are not finite"):
        fit(*x.split(sizes, dim=1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return faults.write_data(tmp_path_factory.mktemp("numbers") / "data")


def test_weights_with_nan_end_in_one_line_and_store_nothing(data, tmp_path, capsys):
    network, _ = load_network("resnet18", "random")
    state = network.state_dict()
    state["layer2.0.conv1.weight"][3, 3, 1, 1] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    out = tmp_path / "out"
    assert main.main([*faults.command(data, out)[2:], "--weights", str(tmp_path / "nan.pth")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "position 0 are not finite" in errors[0] and "--weights" in errors[0]
    assert not list(out.rglob("*.pkl")) and not list(out.rglob("*.npz"))
    assert "NaN" not in (out / "results_resnet18.json").read_text(encoding="utf-8")


def test_two_training_images_of_which_one_is_a_copy(data, tmp_path):
    """The covariance is 0.01·I wherever the network is exact; every figure is a number."""
    source, out = data / "flange", tmp_path / "out"
    copy = tmp_path / "data" / "flange"
    copy.mkdir(parents=True)
    for name in ("test", "ground_truth"):
        (copy / name).symlink_to(source / name, target_is_directory=True)
    (copy / "train" / "good").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (copy / "train" / "good" / name).write_bytes((source / "train" / "good" / "000.png").read_bytes())
    assert main.main(faults.command(tmp_path / "data", out)[2:]) == 0
    row = json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))["classes"]["flange"]
    assert row["n_train"] == 2 and 0 <= row["pixel_rocauc"] <= 1
    _, covariance = read_fitted(out / "temp_resnet18" / "train_flange.pkl", 3136, faults.DIMENSIONS)
    np.testing.assert_allclose(covariance, np.broadcast_to(0.01 * np.eye(20), covariance.shape), atol=1e-9)
