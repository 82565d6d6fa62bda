"""The module that is exported, in PyTorch: maps and scores of prepared pictures as the model gives them."""

import numpy as np
import pytest
import torch

from datasets.preprocessing import MEAN, STD, to_images
from padim.export import Deployed
from padim.mahalanobis import invert_factors
from padim.model import PaDiM
from system.errors import UserError

SIZE = (48, 80)


@pytest.mark.parametrize("choice", [{"dimensions": 20}, {"dimensions": 3}, {"dimensions": 9, "reduction": "pca"}])
def test_maps_and_scores_are_the_models(choice):
    """Random channels, so few that a layer has none of them, and principal components."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, *SIZE, 3), dtype=np.uint8) for n in (30, 4))
    model = PaDiM("resnet18", "random", size=SIZE, **choice).fit([torch.from_numpy(to_images(train))])
    if choice["dimensions"] == 3:
        assert not any(64 <= number < 192 for number in model.dimensions)  # layer2 的一个也没有
    (wanted,) = model.score([torch.from_numpy(to_images(test))])
    halved = Deployed(PaDiM("resnet18", "random", size=SIZE, **choice).load_state(*copies(model)), MEAN, STD, half=True)
    deployed = Deployed(model, MEAN, STD)
    with torch.inference_mode():
        maps, scores = (each.numpy() for each in deployed(torch.from_numpy(test)))
        roughly = halved(torch.from_numpy(test))[0].numpy()
    np.testing.assert_allclose(maps, wanted.maps, rtol=1e-4)
    np.testing.assert_allclose(scores, wanted.image_scores, rtol=1e-4)
    np.testing.assert_allclose(roughly, wanted.maps, rtol=1e-2)
    assert halved.whitening.nbytes == deployed.whitening.nbytes / 2 and (roughly != maps).any()
    with pytest.raises(ValueError, match="no Gaussian is there"):
        model.state()


def copies(model: PaDiM) -> list:
    return [None if each is None else each.clone() for each in (*model.state(), model.components)]


def test_inverse_factors_in_another_order():
    rng = np.random.default_rng(1)
    factors = torch.from_numpy(rng.standard_normal((5, 7, 7)).astype(np.float32))
    covariance = factors @ factors.mT + 0.01 * torch.eye(7)
    order, own = torch.tensor([3, 0, 6, 1, 5, 2, 4]), covariance.clone()
    invert_factors(own, order)
    reordered = covariance[:, order][:, :, order].double()
    identity = own.double() @ reordered @ own.double().mT
    np.testing.assert_allclose(identity, torch.eye(7).expand(5, 7, 7), atol=1e-4)
    assert not own.triu(1).any()
    covariance[3, 2, 2] = -1
    with pytest.raises(UserError, match="position 3 is not positive definite"):
        invert_factors(covariance, order)
