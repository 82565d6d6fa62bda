"""The JSON beside a pickle: one form, whoever reads it."""

import json

import numpy as np
import pytest
from synthetic import write_model

from experiment.files.records import FITTED, is_fitted_record, read_fitted_record
from system.errors import UserError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "train_x.pkl"
    write_model(path, "resnet18", np.random.default_rng(0))
    return path


def change(path, **entries) -> dict:
    """Rewrite the record with other entries; those that are REMOVED go."""
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) | entries
    record = {key: value for key, value in record.items() if value is not REMOVED}
    path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    return record


REMOVED = object()


def test_a_record_as_written(path):
    record = read_fitted_record(path)
    assert record.keys() >= FITTED.keys() and is_fitted_record(record)
    written = change(path, versions={}, left_out_scores=[1, 2.5])
    assert read_fitted_record(path) == written


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("arch", (3, None)), ("weights", (3, None)), ("weights_sha256", (3, None)), ("training_files", (3, None)),
        ("seed", ("1024", None, 1.5, True)), ("dimensions", (None, [], "ab", ["1"], [1.5], [-1], [True], {})),
        ("precision", ("x", None, ["bf16"], {})), ("reduction", ("x", None, {})), ("preprocessing", (None, "x", [])),
        ("size", ("ab", None, [64], [64, "64"], [0, 64], [64.5, 64], [True, True], [1, 2, 3])),
        ("layers", (None, [], "layer1", [{}], [{"name": 1}], ["layer1"], [{"name": "layer1", "channels": 64}])),
        ("n_train", (None, 1.5, "3")), ("left_out_scores", (["a"], [None, 1.0], 3, [], [float("nan")], [10**400])),
    ],
)  # fmt: skip
def test_entries_that_are_no_such_thing(path, key, values):
    for value in (REMOVED, *values):
        record = change(path, **{key: value})
        assert not is_fitted_record(record)
        words = f"it has no {key};" if value is REMOVED else f"it has {key} "
        with pytest.raises(UserError, match=rf"train_x\.json.*{words}.*--refit"):
            read_fitted_record(path)


def test_a_pickle_and_a_record_that_do_not_belong_together(path):
    change(path, pickle_bytes=None)  # 换到一半被打断
    with pytest.raises(UserError, match=r"train_x\.pkl' is damaged, or not what .*train_x\.json.*--refit"):
        read_fitted_record(path)
    for content in ("", "[]", "{", "[" * 100_000, '"x"'):
        path.with_suffix(".json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"train_x\.json.*no record of main\.py"):
            read_fitted_record(path)
    path.unlink()
    with pytest.raises(UserError, match="no stored features"):
        read_fitted_record(path)


@pytest.mark.parametrize("content", [None, 3, "x", [], {}])
def test_what_is_no_record_at_all(content):
    assert not is_fitted_record(content)
