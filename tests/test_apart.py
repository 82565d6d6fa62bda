"""Kinds of defect apart: what evaluating those pictures alone gives."""

import numpy as np
import pytest

from experiment.files.arrays import row_of
from padim.apart import evaluate_apart
from padim.counts import CHUNK
from padim.metrics import evaluate_maps


@pytest.fixture
def scored():
    """More pictures than are read at a time, the kinds mixed: maps, labels, masks, kinds."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(["good", "dent", "hole"], CHUNK + 9)
    masks = np.zeros((len(kinds), 8, 9), np.uint8)
    masks[kinds != "good", 2:5, 3:7] = 1
    maps = (rng.standard_normal(masks.shape) + masks * (1 + (kinds == "hole"))[:, None, None]).astype(np.float32)
    return maps, (kinds != "good").astype(np.uint8), masks, kinds.tolist()


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_kind_apart(scored, with_masks):
    maps, labels, masks, kinds = scored
    found = evaluate_apart(maps, labels, masks if with_masks else None, kinds, ("hole", "dent", "scratch"))
    rows = {kind: row_of(None, found, None, "")[kind] for kind in found}
    assert list(rows) == ["hole", "dent"]  # 没有图片的一种不列
    for kind, row in rows.items():
        chosen = np.array([each in ("good", kind) for each in kinds])
        wanted = row_of(evaluate_maps(maps[chosen], labels[chosen], masks[chosen] if with_masks else None), {}, 0.5, "")
        own = ("threshold", "image_threshold", "threshold_origin")  # 整个测试集的
        assert row == {metric: value for metric, value in wanted.items() if metric not in own}
        assert (row["pixel_rocauc"] is not None) == with_masks
    assert rows["hole"]["image_rocauc"] > rows["dent"]["image_rocauc"]
    assert evaluate_apart(maps, labels, masks, kinds, ()) == {}


def test_without_good_pictures(scored):
    maps, labels, masks, kinds = scored
    bad = np.flatnonzero(labels)
    found = evaluate_apart(maps[bad], labels[bad], masks[bad], [kinds[i] for i in bad], ("dent",))
    assert found["dent"].image is None and found["dent"].pixel is not None
