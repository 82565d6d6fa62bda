"""End to end through main.py and predict.py with all that can be chosen: networks, layers, components, bfloat16."""

import csv
import io
import json

import numpy as np
import pytest

import main
import predict
from datasets.sample import write_sample

CHOICES = {
    "efficientnet_lite0": (["--arch", "efficientnet_lite0"], 100),
    "efficientnet_b5": (["--arch", "efficientnet_b5"], 344),
    "mobilenet_v3_large": (["--arch", "mobilenet_v3_large", "--layers", "features.3,features.6", "--rd", "20"], 20),
    "pca": (["--arch", "resnet18", "--reduction", "pca", "--rd", "12"], 12),
    "bf16": (["--arch", "resnet18", "--precision", "bf16", "--rd", "20"], 20),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones") / "data"
    write_sample(root, n_train=5, n_test=6, size=64)
    return root / "linen"


@pytest.mark.parametrize("choice", CHOICES)
def test_the_experiment_and_its_predictions(data, tmp_path, capsys, choice):
    """Files, figures and results are written; the stored features give new pictures the experiment's scores."""
    (options, dimensions), out = CHOICES[choice], tmp_path / "out"
    arch = options[1]
    command = [*options, "--weights", "random", "--resize", "64", "--crop", "0", "--figures", "2"]
    command += ["--data_path", str(data), "--save_path", str(out)]
    assert main.main(command) == 0
    assert len(list((out / f"pictures_{arch}").iterdir())) == 2 and (out / f"roc_curve_{arch}.png").exists()
    results = json.loads((out / f"results_{arch}.json").read_text(encoding="utf-8"))
    assert results["complete"] and 0 <= results["classes"]["linen"]["image_rocauc"] <= 1
    model = out / f"temp_{arch}" / "train_linen.pkl"
    record = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    assert len(record["dimensions"]) == dimensions
    maps = np.load(out / f"scores_{arch}" / "linen_maps.npy")
    assert maps.shape == (6, 64, 64) and np.isfinite(maps).all() and maps.std() > 0
    capsys.readouterr()
    assert predict.main(["--model", str(model), str(data / "test"), "--batch_size", "4"]) == 0
    scores = [float(row["score"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    np.testing.assert_allclose(scores, maps.max((1, 2)), rtol=1e-4)
    stored = model.stat().st_mtime_ns
    assert main.main(command) == 0 and model.stat().st_mtime_ns == stored  # 再来一次，用存下的特征
    np.testing.assert_allclose(np.load(out / f"scores_{arch}" / "linen_maps.npy"), maps, rtol=1e-4)
