from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis

from padim.gaussian import GaussianStream
from padim.mahalanobis import Gaussians
from system.errors import UserError

P, N, D = 70, 23, 12  # 位置数不是分块的整数倍


@pytest.fixture
def embeddings() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    scale = torch.logspace(-2, 1, D)
    return (torch.randn(P, N, D, generator=generator) * scale + 5).float()


def fit(embeddings: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    stream = GaussianStream(len(embeddings), embeddings.shape[2], torch.device("cpu"))
    for part in embeddings.split(sizes, dim=1):
        stream.update(part)
    assert stream.count == embeddings.shape[1]
    return stream.finish()


@pytest.mark.parametrize("sizes", [[N], [1] * N, [20, 3], [1, 22], [7, 7, 7, 2]])
def test_any_split_is_the_textbook_estimate(embeddings, sizes):
    mean, covariance = fit(embeddings, sizes)
    exact = embeddings.double().numpy()
    assert (mean.dtype, covariance.dtype) == (torch.float64, torch.float32)
    np.testing.assert_allclose(mean, exact.mean(1), rtol=1e-6)
    for p in range(P):
        wanted = np.cov(exact[p], rowvar=False) + 0.01 * np.eye(D)
        assert np.abs(covariance[p].numpy() - wanted).max() <= 2e-6 * wanted.max()


def test_a_thread_that_begins_later_has_all_cores():
    def threads() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(torch.randn(3136, 2, 50), [2])  # 多于一段：分给几个线程
        assert threads() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_far_off_mean_costs_no_digits():
    """A one-pass sum of squares would lose all of them here."""
    x = torch.randn(1, 400, 3, generator=torch.Generator().manual_seed(0)) + 1000
    _, covariance = fit(x, [64] * 6 + [16])
    wanted = np.cov(x[0].double().numpy(), rowvar=False) + 0.01 * np.eye(3)
    np.testing.assert_allclose(covariance[0], wanted, atol=2e-4)


def test_drifting_data():
    """Blocks with very different means: the between-block term carries most of the variance."""
    x = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(1)) + torch.arange(60.0)[None, :, None]
    _, covariance = fit(x, [20, 20, 20])
    wanted = np.cov(x[1].double().numpy(), rowvar=False) + 0.01 * np.eye(4)
    np.testing.assert_allclose(covariance[1], wanted, rtol=1e-5)


def test_fewer_than_two_images(embeddings):
    with pytest.raises(ValueError, match="at least two"):
        fit(embeddings[:, :1], [1])


def test_distances_are_scipys(embeddings):
    mean, covariance = fit(embeddings, [N])
    exact = covariance.double().numpy()
    test = embeddings[:, :5] * 1.3
    distances = Gaussians(mean, covariance).distances(test)
    assert distances.shape == (P, 5)
    for p in range(0, P, 9):
        inverse = np.linalg.inv(exact[p])
        for n in range(5):
            wanted = scipy_mahalanobis(test[p, n].double().numpy(), mean[p].double().numpy(), inverse)
            assert distances[p, n] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), -1])
def test_one_memory_and_the_position_without_a_factor(embeddings, bad):
    mean, covariance = fit(embeddings, [N])
    before, address = covariance.clone(), covariance.data_ptr()
    model = Gaussians(mean, covariance)
    model.distances(embeddings[:, :2])
    assert not torch.equal(covariance, before)
    assert model.covariance().data_ptr() == address and torch.equal(covariance, before)
    covariance[41, 2, 2] = bad
    with pytest.raises(UserError, match="position 41 is not positive definite"):
        model.distances(embeddings[:, :2])
