import random

import pytest
import torch

from padim.embedding import Embedding, choose_dimensions
from system.errors import UserError


@pytest.mark.parametrize(
    ("total", "kept", "first"),
    [
        (448, 100, [408, 9, 247, 435, 199, 165, 424, 405, 266, 51]),
        (1792, 550, [1632, 39, 990, 1740, 797, 661, 1698, 1623, 1782, 1064]),
    ],
)
def test_the_published_choice(total, kept, first):
    chosen = choose_dimensions(total, kept)
    assert chosen[:10] == first
    assert len(set(chosen)) == kept


def test_the_choice_leaves_the_global_generator_alone():
    random.seed(7)
    expected = random.random()
    random.seed(7)
    choose_dimensions(448, 100)
    assert random.random() == expected


def test_too_many_dimensions():
    with pytest.raises(UserError, match=r"449 .* 448"):
        choose_dimensions(448, 449)


@pytest.mark.parametrize("dimensions", [[13, 0, 5, 4, 8, 2], [3, 1], [9, 12]])
def test_gathers_what_concatenation_would(dimensions):
    """Against all channels up-sampled and concatenated, then picked; some layers may have none."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(3, c, s, s, generator=generator) for c, s in ((4, 8), (4, 4), (6, 2))]
    whole = torch.cat(
        [f.repeat_interleave(8 // f.shape[2], 2).repeat_interleave(8 // f.shape[2], 3) for f in features], 1
    )
    buffer = torch.full((64, 5, len(dimensions)), -1.0)
    Embedding([(4, 8, 8), (4, 4, 4), (6, 2, 2)], dimensions)(features, buffer[:, 1:4])
    wanted = whole[:, dimensions].permute(2, 3, 0, 1).reshape(64, 3, len(dimensions))
    assert torch.equal(buffer[:, 1:4], wanted)
    assert (buffer[:, [0, 4]] == -1).all()


def test_layers_of_any_size_ratio():
    """Nearest up-sampling as torch defines it, where the sizes are no multiples."""
    features = [torch.randn(2, 3, 7, 9), torch.randn(2, 4, 4, 5)]
    out = torch.empty(63, 2, 3)
    Embedding([(3, 7, 9), (4, 4, 5)], [6, 1, 3])(features, out)
    up = torch.nn.functional.interpolate(features[1], (7, 9))
    wanted = torch.stack([up[:, 3], features[0][:, 1], up[:, 0]], 1).permute(2, 3, 0, 1).reshape(63, 2, 3)
    assert torch.equal(out, wanted)
