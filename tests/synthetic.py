"""A tiny result folder, written through experiment/ as main.py writes it, without a model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from datasets.mvtec import OBJECTS, TEXTURES
from experiment.files.arrays import arrays_of, row_of
from experiment.files.folder import Store
from experiment.files.gaussians import write_fitted
from experiment.files.records import configuration as common_configuration
from experiment.methods import split_key
from experiment.report.published import compare, published
from experiment.report.results import averages
from experiment.report.threshold import BEST_F1
from experiment.studies import summarise
from padim.metrics import evaluate_maps, evaluate_scores, normalise
from padim.uncertainty import image_interval
from padim.variants import COVARIANCES, Variant
from system.files import Staged, read_json, write_json

FIFTEEN = tuple(sorted(TEXTURES + OBJECTS))
KINDS = ("good", "broken_large", "contamination", "manipulated_front")
SIDE, GRID, DIMENSIONS = 48, 12, 6
DATA = dict.fromkeys(("dataset", "data_path", "file_names", "training_files", "test_files"), "0")


def write_results(root: Path, key: str, classes: tuple[str, ...] = FIFTEEN, seed: int = 0, masks: bool = True) -> dict:
    """Random scores of 12 pictures a class with a square defect on most, of any method; returns the results."""
    store, rng = Store(root, key), np.random.default_rng(seed)
    method, arch = split_key(key)
    reference, rows = published(True), {}
    for name in classes:
        kinds = [KINDS[i % len(KINDS)] for i in range(12)]
        labels = np.array([int(kind != "good") for kind in kinds])
        truth = np.zeros((12, SIDE, SIDE), np.uint8)
        data = np.random.default_rng(len(name))  # 同一类的图片，各模型看到的是同一批
        for i in np.flatnonzero(labels):
            y, x = data.integers(8, 28, 2)
            truth[i, y : y + 14, x : x + 14] = 1
        with Staged() as staged, store.score_files(name, truth.shape, staged) as (maps, images, _):
            noise = rng.standard_normal(truth.shape) + 2 * truth * rng.uniform(0.2, 1, (12, 1, 1))
            maps[:] = 10 + gaussian_filter(noise, (0, 2, 2))
            images[:] = data.integers(0, 256, images.shape)
            found = evaluate_maps(maps, labels, truth if masks else None)
        own = labels + rng.normal(40, 0.4, 12) if method != "padim" else np.zeros(0)
        files = [f"test/{kind}/{i:03d}.png" for i, kind in enumerate(kinds)]
        patches = rng.standard_normal((12, DIMENSIONS if method == "padim" else 0)).astype(np.float32)
        arrays = arrays_of(found, files, kinds, labels, truth if masks else None, patches)
        row = row_of(found, {}, arrays["image_threshold_raw"], BEST_F1)
        if method != "padim":
            score_images(arrays, row, own)
        if method == "mahalanobis_ad":
            without_maps(store, name, arrays, row)
        store.write_arrays(name, arrays)
        seconds = {"fit": 3.0, "save": 0.5, "score": 2.0, "evaluate": 1.0, "total": 7.0}
        row["image_threshold"] = arrays["image_threshold_raw"]
        row |= {"n_train": 30, "n_test": 12, "seconds": seconds, "remarks": [], "region": None} | DATA
        rows[name] = compare(row, reference.of(name, key))
        if method == "padim":
            write_model(store.fitted(name), arch, rng)
            write_left_out(store, name)
    chosen = "" if method == "padim" else f"--method {method} "
    results = {
        "classes": rows,
        "averages": averages(rows, reference, key),
        "run": {
            "command": f"python main.py {chosen}--arch {arch} --seed {seed}",
            "configuration": configuration(arch, seed) if method == "padim" else configuration_of_predecessor(arch),
            "peak_memory_bytes": 1_500_000_000,
            "finished": list(rows),
            "options": {"method": method},
        },
        "complete": True,
    }
    store.write_results(results)
    return results


def score_images(arrays: dict[str, Any], row: dict[str, Any], scores: np.ndarray) -> None:
    """Put scores (N,) of the pictures' own, not the maps' maxima, into what a class keeps of `evaluate_maps`."""
    image, ends = evaluate_scores(scores, arrays["labels"]), (scores.min(), scores.max())
    arrays |= {"image_scores": normalise(scores, *ends), "image_score_min": ends[0], "image_score_max": ends[1]}
    arrays |= {"image_threshold_raw": image.threshold, "image_roc": image.roc}
    row |= {"image_rocauc": image.rocauc, "image_ap": image.ap, "image_f1": image.f1}
    row["image_rocauc_interval"] = image_interval(scores, arrays["labels"])[0]


def without_maps(store: Store, name: str, arrays: dict[str, Any], row: dict[str, Any]) -> None:
    """Take away what follows from maps."""
    for path in (store.maps(name), store.pictures(name)):
        path.unlink()
    arrays |= {key: arrays[f"image_{key}"] for key in ("score_min", "score_max")}
    arrays |= dict.fromkeys(("masks", "threshold", "threshold_raw", "pixel_roc", "pixel_pr", "pixel_pro"))
    arrays |= dict.fromkeys(("pixel_wins", "pixel_aupimo"))
    row |= dict.fromkeys([key for key in row if key.startswith("pixel_")] + ["threshold"])


def write_left_out(store: Store, name: str) -> None:
    """Left-out scores of 30 training pictures, the last of which stands out; the twelve highest with their maps."""
    rng = np.random.default_rng(0)
    scores = [*rng.normal(11, 0.5, 29).tolist(), 20.0]
    kept = np.argsort(scores)[::-1][:12]
    maps = rng.random((len(kept), SIDE, SIDE), np.float32)
    store.write_left_out(
        name,
        {
            "files": np.array([f"train/good/{i:03d}.png" for i in kept]),
            "scores": np.array(scores)[kept],
            "maps": maps * (np.array(scores)[kept] / maps.max((1, 2))).astype(np.float32)[:, None, None],
            "images": rng.integers(0, 256, (*maps.shape, 3), np.uint8),
            "lots": None,
        },
    )
    beside = store.fitted(name).with_suffix(".json")
    write_json(beside, read_json(beside) | {"left_out_scores": scores})


def write_ablation(root: Path, arch: str, classes: tuple[str, ...] = FIFTEEN) -> None:
    """The four studies with random figures; a class without normal test pictures among them."""
    rng, names = np.random.default_rng(0), ["layer1", "layer2", "layer3"]
    studies = {
        "layers": [Variant(n, [n], "none", 64) for n in names]
        + [Variant("sum", names, "sum", 448), Variant("random", names, "random", 100, 1024)],
        "dimensions": [Variant(f"{r} {d}", names, r, d) for d in (50, 100) for r in ("random", "pca")]
        + [Variant("all", names, "none", 448)],
        "seeds": [Variant(f"seed {s}", names, "random", 100, s) for s in range(10)],
        "covariance": [Variant(kind, names, "random", 100, 1024, covariance=kind) for kind in COVARIANCES],
    }
    content = {}
    for study, variants in studies.items():
        figures = {n: {v.label: dict(zip(("image", "pixel"), rng.uniform(0.8, 1, 2).tolist(), strict=True))
                       for v in variants} for n in classes}  # fmt: skip
        content[study] = summarise({"variants": [asdict(v) for v in variants], "classes": figures})
    write_json(Store(root, arch).ablation, {"configuration": configuration(arch), "data": {}, "studies": content})


def record(arch: str, grid: int = GRID, seed: int = 0) -> dict[str, Any]:
    """What main.py writes beside a pickle, but for its dimensions and the pickle's size."""
    channels = (64, 128, 256) if arch == "resnet18" else (256, 512, 1024)
    layers = [
        {"name": f"layer{k + 1}", "channels": c, "height": grid >> k, "width": grid >> k, "stride": 4 << k,
         "receptive_field": (43, 99, 211)[k]}
        for k, c in enumerate(channels)
    ]  # fmt: skip
    network = {"arch": arch, "weights": "random", "weights_sha256": "0", "precision": "float32", "layers": layers}
    data = {"size": [4 * grid, 4 * grid], "n_train": 30, "training_files": "0"}
    known = ("left_out_scores", "left_out", "left_out_alone_scores", "validation_scores", "test_set")
    data |= dict.fromkeys((*known, "region"))
    return network | data | {"seed": seed, "reduction": "random", "preprocessing": {"resize": 256, "crop": 224}}


def configuration(arch: str, seed: int = 0) -> dict[str, Any]:
    """What the rows of a results file have in common."""
    whole = record(arch, seed=seed) | {"dimensions": list(range(DIMENSIONS))}
    return common_configuration(whole)


def configuration_of_predecessor(arch: str) -> dict[str, Any]:
    """The same for SPADE and MahalanobisAD, which draw no channels."""
    return {k: v for k, v in configuration(arch).items() if k not in ("reduction", "seed", "dimensions")}


def write_model(
    path: Path, arch: str, rng: np.random.Generator, dimensions: int = DIMENSIONS, grid: int = GRID
) -> None:
    """Random Gaussians and their record."""
    positions, made_from = grid * grid, record(arch, grid)
    factors = rng.standard_normal((positions, dimensions, dimensions)).astype(np.float32)
    covariance = factors @ factors.transpose(0, 2, 1) / dimensions + 0.01 * np.eye(dimensions, dtype=np.float32)
    chosen = rng.permutation(sum(layer["channels"] for layer in made_from["layers"]))[:dimensions].tolist()
    mean = rng.random((positions, dimensions)).astype(np.float32)
    write_fitted(path, mean, covariance, made_from | {"dimensions": chosen})
