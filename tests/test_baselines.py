"""The predecessors: parity with their public scripts and with float64 textbooks, and what must not change a result."""

import numpy as np
import predecessors_oracle as oracle
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from padim import BLOCK
from padim.baselines.mahalanobis_ad import MahalanobisAD
from padim.baselines.spade import CHUNK, SPADE, nearest_distances
from padim.weights import load_network
from system.errors import UserError
from system.files import allocate

SIZE = 96, 64


def images(root, name, train) -> list[torch.Tensor]:
    return [image for image, _, _ in batches(MVTecDataset(root, name, train), 32, 0)]


def scores(model, batches) -> tuple[np.ndarray | None, np.ndarray]:
    """All maps and image scores."""
    blocks = list(model.score(batches))
    maps = np.concatenate([block.maps for block in blocks]) if model.has_maps else None
    return maps, np.concatenate([block.image_scores for block in blocks])


def relative(a, b) -> float:
    return float((np.abs(np.asarray(a, np.float64) - b) / np.abs(b)).max())


@pytest.fixture(scope="module")
def pictures(sample) -> tuple[torch.Tensor, torch.Tensor]:
    """A part of 8 training and 9 test pictures; higher than wide."""
    height, width = SIZE
    return tuple(torch.cat(images(sample, "flange", split))[:, :, 60 : 60 + height, 80 : 80 + width].contiguous()
                 for split in ("train", "test"))  # fmt: skip


@pytest.fixture(scope="module")
def spade() -> SPADE:
    return SPADE("resnet18", "random", size=SIZE)


@pytest.fixture(scope="module")
def mahalanobis_ad() -> MahalanobisAD:
    return MahalanobisAD("efficientnet_b1", "random", size=SIZE)


@pytest.fixture(params=["spade", "mahalanobis_ad"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_spades_golden_file(shared):
    golden = np.load(shared / "golden" / "hazelnut_spade.npz")
    model = SPADE(weights="random")
    if model.weights_sha256 != str(golden["weights_sha256"]):
        pytest.skip("this random generator makes other weights")
    assert model.row * 4 == 5_627_904
    model.fit(images(shared / "mvtec", "hazelnut", "train"))
    maps, image_scores = scores(model, images(shared / "mvtec", "hazelnut", "test"))
    assert relative(maps, golden["raw_maps"]) < 1e-3
    assert relative(image_scores, golden["image_scores"]) < 1e-4
    test = MVTecDataset(shared / "mvtec", "hazelnut", "test")
    masks = np.stack([test[i][2][0] for i in range(len(test))])
    assert roc_auc_score(masks.ravel(), maps.ravel()) == pytest.approx(float(golden["pixel_rocauc"]), abs=5e-5)
    assert roc_auc_score(test.labels, image_scores) == pytest.approx(float(golden["image_rocauc"]), abs=5e-5)


def test_mahalanobis_ads_golden_file(shared, tmp_path):
    golden = np.load(shared / "golden" / "hazelnut_mahalanobis_ad.npz")
    state = load_network("efficientnet_b4", "random")[0].state_dict()
    state |= {name[6:]: torch.from_numpy(golden[name]) for name in golden if name.startswith("state/")}
    torch.save(state, tmp_path / "b4.pth")
    model = MahalanobisAD(weights=str(tmp_path / "b4.pth"))
    if model.weights_sha256 != str(golden["weights_sha256"]):
        pytest.skip("this random generator makes other weights")
    assert [layer.channels for layer in model.layers] == golden["level_dimensions"].tolist()
    model.fit(images(shared / "mvtec", "hazelnut", "train"))
    for i, (mean, factor) in enumerate(zip(model.means, model.factors, strict=True)):
        variances, wanted = factor.square().sum(1).numpy(), golden[f"cov_diag{i}"]
        assert np.abs(mean.numpy() - golden[f"mean{i}"]).max() < 1e-4 * np.abs(golden[f"mean{i}"]).max()
        assert np.abs(variances - wanted).max() < 1e-4 * wanted.max()
    test = torch.cat(images(shared / "mvtec", "hazelnut", "test"))
    wanted, is_far = golden["image_scores"], golden["image_scores"] > 10_000
    for batch_size in (1, 32):  # float32 的网络，远处图片的得分随批大小变动 2e-2
        maps, image_scores = scores(model, test.split(batch_size))
        assert maps is None
        assert relative(image_scores[~is_far], wanted[~is_far]) < 1e-5
        assert relative(image_scores[is_far], wanted[is_far]) < 1e-2
    rocauc = roc_auc_score(MVTecDataset(shared / "mvtec", "hazelnut", "test").labels, image_scores)
    assert rocauc == pytest.approx(float(golden["image_rocauc"]), abs=5e-5)


@pytest.mark.parametrize("top_k", [1, 5, 50])
def test_spades_float64_textbook(pictures, top_k):
    """Of fewer training images than K all are neighbours."""
    train, test = pictures
    maps, image_scores = scores(SPADE("resnet18", "random", size=SIZE, top_k=top_k).fit([train]), [test])
    wanted_maps, wanted_scores = oracle.spade("resnet18", train, test, top_k)
    assert maps.shape == (9, *SIZE) and maps.dtype == image_scores.dtype == np.float32
    assert relative(maps, wanted_maps) < 1e-4
    assert relative(image_scores, wanted_scores) < 1e-5


def test_spades_gallery_of_several_chunks():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 3, 32, 32, generator=generator) for n in (CHUNK + 9, 20))
    maps, image_scores = scores(SPADE("resnet18", "random", size=(32, 32)).fit(train.split(10)), [test])
    wanted_maps, wanted_scores = oracle.spade("resnet18", train, test, 5)
    assert relative(maps, wanted_maps) < 1e-4 and relative(image_scores, wanted_scores) < 1e-5


def test_mahalanobis_ads_float64_textbook(mahalanobis_ad, pictures):
    train, test = pictures
    image_scores = scores(mahalanobis_ad.fit([train]), [test])[1]
    assert image_scores.dtype == np.float32
    assert relative(image_scores, oracle.mahalanobis_ad("efficientnet_b1", train, test)) < 1e-5


def test_images_that_are_far_out_are_exact(mahalanobis_ad, pictures, monkeypatch):
    """Those pass the network in float64: their distances to the fitted Gaussians are exact to a float32's last bit."""
    train, test = pictures
    monkeypatch.setattr("padim.baselines.mahalanobis_ad._FAR", 0)
    image_scores = scores(mahalanobis_ad.fit([train]), [test])[1]
    exact = [level.mean((2, 3)) for level in oracle.outputs("efficientnet_b1", oracle.LEVELS, test)]
    gaussians = zip(exact, mahalanobis_ad.means, mahalanobis_ad.factors, strict=True)
    wanted = sum(np.linalg.norm(np.linalg.solve(factor, (x - mean.numpy()).T), axis=0) for x, mean, factor in gaussians)
    assert relative(image_scores, wanted) < 1e-7


def test_the_nearest_where_a_product_cancels():
    """Distances of about 1 between vectors whose squared norms are 1e8."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (1000 + torch.randn(n, 100, generator=generator) / 10 for n in (300, 2000))
    wanted = cdist(queries.double(), gallery.double()).min(1)
    assert relative(nearest_distances(queries, gallery), wanted) < 1e-5
    assert torch.equal(nearest_distances(gallery, gallery), torch.zeros(2000))


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_batches_and_their_order_do_not_matter(model, pictures, batch_size):
    train, test = pictures
    maps, image_scores = scores(model.fit([train]), [test])
    model.fit(train.flip(0).split(batch_size))
    other_maps, other_scores = scores(model, test.split(batch_size))
    assert relative(other_scores, image_scores) < 1e-5
    assert maps is None or relative(other_maps, maps) < 1e-4


def test_a_gallery_in_mapped_files_changes_no_bit(spade, pictures, tmp_path):
    train, test = pictures
    wanted = scores(spade.fit(train.split(3)), [test])
    shapes = []

    def mapped(shape: tuple[int, int]) -> np.ndarray:
        shapes.append(shape)
        return allocate(tmp_path / f"{len(shapes)}.npy", np.float32, shape)

    model = SPADE("resnet18", "random", size=SIZE, allocate=mapped)
    for mine, theirs in zip(scores(model.fit(train.split(3)), [test]), wanted, strict=True):
        assert np.array_equal(mine, theirs)
    assert shapes == [(CHUNK, spade.row)]
    in_memory, on_disk = (m.bytes_needed(32, 3000, 83) for m in (spade, model))
    assert in_memory.host - on_disk.host == 3000 * 4 * spade.row


def test_blocks_are_of_one_size(model, pictures):
    train, test = pictures
    model.fit([train])
    many = test.repeat(BLOCK // 9 + 1, 1, 1, 1)
    blocks = list(model.score(many.split(50)))
    assert [len(block.image_scores) for block in blocks] == [BLOCK, len(many) - BLOCK]
    assert [block.centre.shape for block in blocks] == [(BLOCK, 0), (len(many) - BLOCK, 0)]
    together = np.concatenate([block.image_scores for block in blocks])
    assert relative(together, np.tile(scores(model, [test])[1], BLOCK // 9 + 1)) < 1e-5


def test_processes_that_fit_together_know_all_images(model, pictures):
    """Five images in three batches and three in two, one process after the other: each is given what the other gave."""
    train, test = pictures
    wanted = scores(model.fit([train]), [test])
    parts, given = [train[:5].split(2), train[5:].split(2)], [[], []]
    for part, arrays in zip(parts, given, strict=True):
        model.fit(part, lambda array, arrays=arrays: [arrays.append(array) or array])
    for rank in range(2):
        others = iter(given[1 - rank])

        def gather(array: np.ndarray, rank=rank, others=others) -> list[np.ndarray]:
            pair = [array, next(others, array[:0])]
            return pair if rank == 0 else pair[::-1]

        assert model.fit(parts[rank], gather).count == 8
        maps, image_scores = scores(model, [test])
        assert relative(image_scores, wanted[1]) < 1e-5
        assert maps is None or relative(maps, wanted[0]) < 1e-4


def test_what_is_forgotten_is_gone(model, pictures):
    train, test = pictures
    scores(model.fit([train]), [test])
    model.release()
    assert model.count == 0
    with pytest.raises(ValueError, match="fit comes before score"):
        next(model.score([test]))
    with pytest.raises(ValueError, match="32x32"):
        model.fit([torch.zeros(2, 3, 32, 32)])


def test_spade_refuses_features_that_are_not_finite(spade, pictures):
    train = pictures[0].clone()
    train[5] *= 1e30  # 图片有限，特征却溢出
    with pytest.raises(UserError, match=r"features are not finite.*--weights"):
        spade.fit([train])


def test_mahalanobis_ad_refuses_what_has_no_distance(mahalanobis_ad, pictures):
    train = pictures[0]
    with pytest.raises(UserError, match="at least two training images, not 1"):
        mahalanobis_ad.fit([train[:1]])
    with pytest.raises(UserError, match="at least two training images, not 0"):
        mahalanobis_ad.fit([])
    copies = train[:1].repeat(6, 1, 1, 1)
    with pytest.raises(UserError, match=r"the same features at features\.0.*copies"):
        mahalanobis_ad.fit(copies.split(4))
    with pytest.raises(UserError, match=r"features are not finite.*--weights"):
        mahalanobis_ad.fit([train * 1e37])
    assert mahalanobis_ad.count == 0


def test_networks_and_numbers_that_do_not_do():
    with pytest.raises(UserError, match=r"--arch takes .*wide_resnet50_2.*, not 'vgg11'"):
        SPADE("vgg11", "random")
    with pytest.raises(UserError, match="--top_k must be at least 1, not 0"):
        SPADE("resnet18", "random", top_k=0)
    with pytest.raises(UserError, match=r"--arch takes .*efficientnet_b4.*, not 'efficientnet_b0'"):
        MahalanobisAD("efficientnet_b0", "random")
