"""Training pictures, scored as if they, or their groups, had been left out: against refitting without them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from experiment.files.folder import Store
from experiment.good_scores import GoodScores
from experiment.lots import SHOWN, grouped, remarks
from experiment.ranks import SOLO
from experiment.report.threshold import stands_out_from
from padim import EPSILON
from padim.mahalanobis import Gaussians
from padim.model import PaDiM, Scores


def refitted(embeddings: np.ndarray, size: int = 1) -> np.ndarray:
    """Distances of embeddings (P, n, d), in groups of ``size``, to mean and covariance of those outside their group."""
    positions, n, d = embeddings.shape
    distances = np.empty((positions, n))
    for p in range(positions):
        for start in range(0, n, size):
            group = slice(start, start + size)
            others = np.delete(embeddings[p], group, 0)
            covariance = np.cov(others, rowvar=False).reshape(d, d) + EPSILON * np.eye(d)
            deviations = embeddings[p, group] - others.mean(0)
            distances[p, group] = np.sqrt((deviations * np.linalg.solve(covariance, deviations.T).T).sum(1))
    return distances


def fitted(embeddings: np.ndarray) -> Gaussians:
    """The Gaussians of all n, in float64."""
    covariances = [np.cov(x, rowvar=False).reshape(x.shape[1], -1) + EPSILON * np.eye(x.shape[1]) for x in embeddings]
    return Gaussians(torch.tensor(embeddings.mean(1)), torch.tensor(np.stack(covariances)))


def in_float32(embeddings: np.ndarray) -> Gaussians:
    gaussians = fitted(embeddings)
    return Gaussians(gaussians._exact_mean, gaussians.covariance().float())


# 大小 1 是留一；n − 2 张一组，留下的只有两张。每组的张数小于、等于、大于维数
SIZES = [(3, 1, 1), (3, 20, 1), (12, 30, 1), (12, 4, 1), (60, 20, 1), (60, 21, 1)]
SIZES += [(12, 4, 2), (12, 30, 3), (60, 20, 20), (60, 21, 4), (60, 7, 15), (60, 80, 20), (60, 20, 30), (12, 4, 10)]
SIZES += [(60, 20, 58), (60, 80, 58)]


@pytest.mark.parametrize(("n", "d", "size"), SIZES)
@pytest.mark.parametrize("kind", ["distinct", "duplicates", "constant", "tiny"])
def test_it_is_refitting_without_each_group(n, d, size, kind):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((6, n, d)) * rng.gamma(2, 1, (6, 1, d)) + 3
    if kind == "duplicates":
        embeddings[:, 1 : n // 2 + 1] = embeddings[:, :1]
    if kind == "constant":
        embeddings[:, :, :: max(1, d // 2)] = 0.7
    if kind == "tiny":
        embeddings *= 1e-3
    whole = n // size * size
    wanted, block = refitted(embeddings, size)[:, :whole], torch.tensor(embeddings[:, :whole])
    found = fitted(embeddings).left_out(block, n, size)
    # 留下的越少，散布里要相减的就越大
    np.testing.assert_allclose(found, wanted, rtol=1e-10 if size <= n // 2 else 1e-8, atol=1e-12)
    single = in_float32(embeddings).left_out(block.float(), n, size)
    # 协方差本身是 float32 的：只留两张时，它的舍入已是百分之一
    np.testing.assert_allclose(single, wanted, rtol=1e-3 if size <= n // 2 else 3e-2, atol=1e-4)


def test_float32_is_exact_enough_for_a_third():
    """Correlated features of very different deviations, as networks give them; n below and above d."""
    rng = np.random.default_rng(1)
    for n, d in ((60, 20), (60, 100), (209, 100)):
        embeddings = rng.standard_normal((4, n, d)) * rng.gamma(2, 1, (4, 1, d)) + 3
        embeddings += rng.standard_normal((4, n, 3)) @ rng.standard_normal((4, 3, d))
        for size in (1, 5, n // 3):
            whole = n // size * size
            found = in_float32(embeddings).left_out(torch.tensor(embeddings[:, :whole]).float(), n, size)
            np.testing.assert_allclose(found, refitted(embeddings, size)[:, :whole], rtol=1e-4)


def test_a_singular_rest_is_computed_in_float64():
    """Without one picture a channel is constant: more pictures than dimensions, and float32 alone would be far off."""
    rng = np.random.default_rng(2)
    embeddings = rng.standard_normal((3, 60, 6))
    embeddings[:, :, 2] = 5.0
    embeddings[1, :4, 2] = [5000, 4000, 5200, 6000]
    for size in (1, 4):
        found = in_float32(embeddings).left_out(torch.tensor(embeddings).float(), 60, size)
        np.testing.assert_allclose(found, refitted(embeddings, size), rtol=1e-3)


def test_rounding_never_gives_more_than_the_bound():
    """A covariance of the others is never below εI: where float32 covariances are too coarse, the bound is given."""
    rng = np.random.default_rng(3)
    embeddings = rng.standard_normal((4, 40, 30)) * 300
    found = in_float32(embeddings).left_out(torch.tensor(embeddings[:, :38]).float(), 40, 38).numpy()
    moved = embeddings[:, :38] - embeddings[:, 38:].mean(1, keepdims=True)
    assert np.isfinite(found).all() and (found > 0).all()
    assert (found <= np.linalg.norm(moved, axis=2) / EPSILON**0.5 * (1 + 1e-6)).all()


def test_one_memory_serves_both_factors():
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((300, 40, 12))
    gaussians, block = fitted(embeddings), torch.tensor(embeddings)
    covariance, distances = gaussians.covariance().clone(), gaussians.distances(block)
    left_out = gaussians.left_out(block, 40)
    assert torch.equal(gaussians.distances(block), distances)
    assert torch.equal(gaussians.left_out(block, 40), left_out)
    assert torch.equal(gaussians.covariance(), covariance)
    assert (left_out > distances).all()


@pytest.fixture(scope="module")
def model() -> PaDiM:
    return PaDiM("resnet18", "random", dimensions=12, size=(32, 32))


IMAGES = torch.randn(140, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # 多于一块


def scores_of(blocks) -> np.ndarray:
    return np.concatenate([scores.image_scores for scores in blocks])


@pytest.mark.parametrize("n", [3, 9, 140])
def test_a_model_is_refitted_without_each_picture(model, n):
    """Float32, n below and above the dimensions; any batches; the model scores afterwards as if nobody had asked."""
    images = IMAGES[:n]
    chosen = [0, n // 2, n - 1]
    wanted = []
    for i in chosen:
        model.fit([torch.cat([images[:i], images[i + 1 :]])])
        wanted.append(scores_of(model.score([images[i : i + 1]]))[0])
    model.fit([images])
    before, state = scores_of(model.score([IMAGES])), [t.clone() for t in model.state()]
    found = scores_of(model.leave_out(images.split(7)))
    np.testing.assert_allclose(found[chosen], wanted, rtol=1e-4)
    np.testing.assert_allclose(scores_of(model.leave_out([images])), found, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(model.state(), state, strict=True))
    assert np.array_equal(scores_of(model.score([IMAGES])), before)


@pytest.mark.parametrize("groups", [[40, 40, 40, 20], [135, 1, 1, 1, 1, 1], [3, 3, 64, 64, 6]])
def test_a_model_is_refitted_without_each_group(model, groups):
    """Groups larger than a block, and of unequal size; with them what each picture has alone, from the same pass."""
    ends = np.cumsum(groups)
    wanted = []
    for end, size in zip(ends, groups, strict=True):
        model.fit([torch.cat([IMAGES[: end - size], IMAGES[end:]])])
        wanted.append(scores_of(model.score([IMAGES[end - size : end]])))
    model.fit([IMAGES])
    singles, before = scores_of(model.leave_out([IMAGES])), [t.clone() for t in model.state()]
    blocks = [*model.leave_out(IMAGES.split(9), groups)]
    np.testing.assert_allclose(scores_of(blocks), np.concatenate(wanted), rtol=1e-3)
    np.testing.assert_allclose(np.concatenate([block.alone for block in blocks]), singles, rtol=1e-5)
    np.testing.assert_allclose(scores_of(model.leave_out([IMAGES], groups)), scores_of(blocks), rtol=1e-4)
    assert all(block.alone is None for block in model.score([IMAGES]))
    assert all(torch.equal(a, b) for a, b in zip(model.state(), before, strict=True))


def test_a_projection_stays_that_of_all_pictures():
    model = PaDiM("resnet18", "random", dimensions=12, size=(32, 32), reduction="pca")
    images = IMAGES[:20]
    model.fit([images])
    block = next(model._blocks([images])).double().numpy()
    for size in (1, 5):
        found = np.concatenate([s.maps for s in model.leave_out([images], [size] * (20 // size))])
        distances = torch.from_numpy(refitted(block, size)).float()
        np.testing.assert_allclose(found, model._maps(distances), rtol=1e-3)


def test_what_cannot_be_left_out(model):
    with pytest.raises(ValueError, match="leaving out 1 of 2 images"):
        model.fit([IMAGES[:2]]).leave_out([IMAGES[:2]])
    model.fit([IMAGES[:9]])
    with pytest.raises(ValueError, match="leaving out 8 of 9 images"):
        model.leave_out([IMAGES[:9]], [8, 1])
    for groups, word in (([4, 4], "more"), ([4, 4, 4], "fewer"), ([3, 3, 3, 3], "fewer")):
        with pytest.raises(ValueError, match=f"there are {word} images than the {sum(groups)}"):
            list(model.leave_out(IMAGES[:9].split(2), groups))
    model.release()
    with pytest.raises(ValueError, match="no Gaussian"):
        model.leave_out([IMAGES])


def test_the_golden_scores(shared):
    golden = np.load(shared / "golden/hazelnut_leave_one_out_resnet18.npz")
    train = MVTecDataset(shared / "mvtec", "hazelnut", "train")
    model = PaDiM("resnet18", "random")
    if "weights_sha256" in golden and str(golden["weights_sha256"]) != model.weights_sha256:
        pytest.skip("another random generator")
    images = [images for images, _, _ in batches(train, 16, 1)]
    assert [Path(name).name for name in golden["files"]] == [Path(name).name for name in train.names()]
    np.testing.assert_allclose(scores_of(model.fit(images).leave_out(images)), golden["scores"], rtol=1e-4)


@pytest.mark.slow
def test_wide_resnet50_2_with_fewer_pictures_than_dimensions(shared):
    """1 − k·a is small there: a correction in float64 keeps the float32 factors exact enough."""
    train = MVTecDataset(shared / "mvtec", "hazelnut", "train")
    images = [images for images, _, _ in batches(train, 16, 1)]
    model = PaDiM("wide_resnet50_2", "random")
    model.fit(images)
    found = np.concatenate([s.maps for s in model.leave_out(images)])
    block = next(model._blocks(images))
    some = [0, 1500, 3135]
    wanted = refitted(block[some].double().numpy())
    distances = model._gaussians.left_out(block, 50)[some]
    np.testing.assert_allclose(distances, wanted, rtol=1e-3)
    assert found.shape == (50, 224, 224)


def test_who_stands_out():
    def said(scores):
        return "".join(remarks(grouped(names[: len(scores)], "train/good", "one"), scores, scores, names))

    rng = np.random.default_rng(0)
    scores = [*rng.normal(10, 1, 99), 40.0]
    assert 13 < stands_out_from(scores) < 17
    names = [f"train/good/{i:03d}.png" for i in range(100)]
    assert said(scores).endswith("train/good/099.png (40.0)")
    assert stands_out_from([1.0, 1.0, 1.0, 5.0]) is None and not said([1.0, 1.0, 1.0, 5.0])
    assert not said(scores[:99])
    many = [*rng.normal(10, 1, 60), *range(100, 120)]
    assert said(many).endswith(f" and {20 - SHOWN} more")


def test_the_most_unusual_are_kept_whatever_the_blocks():
    scores = np.random.default_rng(0).permutation(40).astype(np.float32)
    maps = scores[:, None, None] * np.ones((1, 4, 4), np.float32)
    pictures = torch.zeros(40, 3, 4, 4)
    for size in (40, 7):
        left_out = GoodScores([*range(139, 99, -1)])  # 批次的次序不必是文件的次序
        for start in range(0, 40, size):
            here = slice(start, start + size)
            assert len([*left_out.keep([pictures[here]])]) == 1
            centre = np.zeros((len(maps[here]), 1), np.float32)
            left_out.append(Scores(maps[here], scores[here], centre, scores[here] + 100))
        found = left_out.gather(SOLO)
        assert found.scores == scores[::-1].tolist() and found.alone == (scores[::-1] + 100).tolist()
        assert [one.score for one in found.unusual] == [39 - k for k in range(SHOWN)]
        assert all(scores[139 - one.index] == one.score == one.map.max() for one in found.unusual)


FAST = ["--arch", "resnet18", "--weights", "random", "--figures", "none", "--rd", "20", "--resize", "64", "--crop", "0"]


def test_a_run_names_the_pictures_that_do_not_belong(sample, tmp_path, capsys):
    """Two clear defects among the training pictures of a class."""
    own = shutil.copytree(sample / "flange", tmp_path / "flange")
    good = own / "train/good"
    for k in range(3):  # 样例只有八张：同一张图旋转，仍是好的
        for path in sorted(good.glob("00?.png")):
            Image.open(path).rotate(90 * (k + 1)).save(good / f"{k}{path.name}")
    for name in ("hole_a.png", "hole_b.png"):
        picture = np.array(Image.open(good / "000.png"))
        picture[30:50, 20 + 4 * len(name) : 50 + 4 * len(name)] = 255 * (name < "hole_b")
        Image.fromarray(picture).save(good / name)
    out = tmp_path / "out"
    command = [*FAST, "--data_path", str(own), "--save_path", str(out)]
    assert main.main([*command, "--leave_out", "one"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "stand out" in line)
    assert {name.split("/")[-1] for name in said.split() if name.endswith(".png")} >= {"hole_a.png", "hole_b.png"}
    record = json.loads((out / "temp_resnet18/train_flange.json").read_text(encoding="utf-8"))
    scores, names = record["left_out_scores"], MVTecDataset(tmp_path, "flange", "train").names()
    assert len(scores) == len(names) == record["n_train"]
    first = [names[i] for i in np.argsort(scores)[::-1]]
    assert set(first[:2]) == {"train/good/hole_a.png", "train/good/hole_b.png"}
    kept = Store(out, "resnet18").read_left_out("flange")
    assert kept["files"].tolist() == first[:SHOWN]
    np.testing.assert_allclose(kept["maps"].max((1, 2)), sorted(scores)[::-1][:SHOWN], rtol=1e-6)
    assert kept["images"].shape == (SHOWN, 64, 64, 3)

    # 再来一次：不再算；重新拟合而不要求：作废
    made = Store(out, "resnet18").left_out("flange").stat().st_mtime_ns
    assert main.main([*command, "--leave_out", "one"]) == 0
    assert Store(out, "resnet18").left_out("flange").stat().st_mtime_ns == made
    assert main.main([*command, "--refit"]) == 0
    assert not Store(out, "resnet18").left_out("flange").exists()
    record = json.loads((out / "temp_resnet18/train_flange.json").read_text(encoding="utf-8"))
    assert record["left_out_scores"] is None


def test_it_needs_stored_features(sample, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main(
            [*FAST, "--data_path", str(sample), "--save_path", str(tmp_path), "--leave_out", "one", "--no_features"]
        )
    assert capsys.readouterr().err.startswith(
        "error: --leave_out stores its scores beside the features; give no --no_features"
    )
    assert not list(tmp_path.iterdir())
