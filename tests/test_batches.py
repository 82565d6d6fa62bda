"""What may be given as batches, and the one error for what may not."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets.mvtec import MVTecDataset
from padim.model import PaDiM


@pytest.fixture(scope="module")
def model() -> PaDiM:
    return PaDiM("resnet18", "random", dimensions=5)


@pytest.fixture(scope="module")
def pooled() -> PaDiM:
    return PaDiM("resnet18", "random", dimensions=5, reduction="pca")


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def scores(blocks) -> np.ndarray:
    return np.concatenate([block.maps for block in blocks])


def test_a_data_loader_works_as_it_stands(model, pooled, sample):
    """In fitting, leaving one out and scoring, and with principal components, which take two passes."""
    train, test = (DataLoader(MVTecDataset(sample, "linen", split), 3) for split in ("train", "test"))
    plain = [[batch[0] for batch in loader] for loader in (train, test)]
    for fitted in (model, pooled):
        fitted.fit(plain[0])
        wanted = scores(fitted.leave_out(plain[0])), scores(fitted.score(plain[1]))
        fitted.fit(train)
        assert fitted.count == 8
        assert np.array_equal(scores(fitted.leave_out(train)), wanted[0])
        assert np.array_equal(scores(fitted.score(test)), wanted[1])


def test_tuples_and_lists(model):
    wanted = model.fit(images(4).split(2)).state()[1].clone()
    for batches in ([(part,) for part in images(4).split(2)], [[part, "any", None] for part in images(4).split(2)]):
        assert torch.equal(model.fit(batches).state()[1], wanted)


spoilt = {value: images(2).index_fill(2, torch.tensor([7]), value) for value in (np.nan, np.inf, -np.inf)}
WRONG = {
    "array": ([images(2).numpy()], TypeError, r"numpy\.ndarray, not a tensor; torch\.from_numpy"),
    "dictionary": ([{"image": images(2)}], TypeError, "dict, not a tensor"),
    "nothing": ([()], TypeError, "tuple, not a tensor"),
    "labels first": ([(np.zeros(2), images(2))], TypeError, r"numpy\.ndarray, not a tensor"),
    "bytes": ([images(2).to(torch.uint8)], TypeError, r"torch\.uint8; give float32, normalised"),
    "double": ([images(2).double()], TypeError, r"torch\.float64; give float32"),
    "one image": ([images(1)[0]], ValueError, r"\(3, 224, 224\), not \(B, 3, H, W\); image\[None\]"),
    "grey": ([images(2)[:, :1]], ValueError, r"\(2, 1, 224, 224\), not \(B, 3, H, W\)"),
    "images as a batch": ([list(images(2))], ValueError, r"\(3, 224, 224\), not"),
    "another size": ([images(2)[..., :200]], ValueError, "224x200.*224x224"),
    "bare tensor": (images(2), TypeError, r"one Tensor in place of batches; give a list, \[images\]"),
    "bare array": (images(2).numpy(), TypeError, "one ndarray in place of batches"),
    **{f"{value}": ([spoilt[value]], ValueError, "NaN or infinite") for value in spoilt},
}


@pytest.fixture(scope="module")
def fitted(model) -> PaDiM:
    state = model.fit([images(3)]).state()
    return PaDiM("resnet18", "random", dimensions=5).load_state(*state, count=3)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_batch_is_one_clear_error(model, pooled, fitted, case):
    batches, kind, words = WRONG[case]
    for work in (model.fit, pooled.fit, fitted.score, fitted.leave_out):
        with pytest.raises(kind, match=words):
            list(work(batches))


def test_a_sum_that_overflows_is_no_error(model):
    """The check adds the pixels up: finite ones may be too large together."""
    large = torch.full((2, 3, 224, 224), 3e38)
    assert large.sum().isinf()
    assert len(list(model.features([large]))) == 1
