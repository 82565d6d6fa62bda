"""Lots of training pictures: how they are grouped and shared, what is said of them, and runs that leave them out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main
import predict
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing
from experiment import memory
from experiment.files.folder import Store
from experiment.lots import choose, grouped, remarks
from experiment.options import experiment
from experiment.report.threshold import find_thresholds, lots_that_stand_out
from padim import BLOCK
from padim.model import PaDiM
from system.errors import UserError

GOOD = "train/good"
NAMES = [f"{GOOD}/{name}" for name in ("000.png", "a/0.png", "a/deep/1.png", "b/0.png", "b/1.png", "zz.png")]


def numbered(count: int) -> list[str]:
    return [f"{GOOD}/{i:03d}.png" for i in range(count)]


def test_folders_of_the_first_level_and_what_lies_beside_them():
    lots = grouped(NAMES, GOOD, "folder")
    assert dict(zip(lots.names, lots.members, strict=True)) == {GOOD: [0, 5], f"{GOOD}/a": [1, 2], f"{GOOD}/b": [3, 4]}
    assert lots.record == {"by": "folder", "groups": 3} and lots.largest == 2
    assert lots.of_pictures() == [GOOD, *[f"{GOOD}/a"] * 2, *[f"{GOOD}/b"] * 2, GOOD]


def test_other_data_sets_have_theirs_elsewhere():
    names = ["Train/Good/rgb/a.png", "Train/Good/rgb/x/b.png", "Train/Good/rgb/x/c.png"]
    assert grouped(names, "train/good/rgb", "folder").names == ["Train/Good/rgb", "Train/Good/rgb/x"]
    assert grouped(["train/1.png", "train/2.png"], "train", "folder").names == ["train"]


def test_consecutive_pictures_and_the_rest():
    lots = grouped(NAMES, GOOD, 4)
    assert [*map(list, lots.members)] == [[0, 1, 2, 3], [4, 5]]
    assert lots.names == [f"{NAMES[0]} to {NAMES[3]}", f"{NAMES[4]} to {NAMES[5]}"]


@pytest.mark.parametrize(
    ("asked", "names", "by", "words"),
    [
        (None, NAMES, "folder", ""),
        (None, numbered(9), "one", ""),
        (
            None,
            [f"{GOOD}/a/{i}.png" for i in range(5)],
            "one",
            "all 5 training pictures are one group; they are left out",
        ),
        (None, [f"{GOOD}/a.png", *(f"{GOOD}/a/{i}.png" for i in range(5))], "one", f"{GOOD}/a holds 5 of 6"),
        ("one", NAMES, "one", ""),
        (4, NAMES, 4, ""),
        (5, NAMES, None, f"--leave_out 5, class 'x': {GOOD}/000.png to {GOOD}/b/1.png holds 5 of 6"),
        (6, NAMES, None, "--leave_out 6, class 'x': all 6 training pictures are one group"),
        ("folder", numbered(9), None, "--leave_out folder, class 'x': all 9 training pictures are one group"),
    ],
)
def test_how_a_class_is_left_out(asked, names, by, words):
    if by is None:
        with pytest.raises(UserError) as problem:
            choose(asked, "x", names, GOOD)
        assert str(problem.value).startswith(words) and str(problem.value).endswith("; give --leave_out one")
        return
    lots, remark = choose(asked, "x", names, GOOD)
    assert lots.by == by and remark.startswith(words) and bool(remark) == bool(words)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_group_is_of_one_process(ranks):
    sizes = [5, 1, 3, 3, 1, 8, 2]
    names = [f"{GOOD}/{i}/{k}.png" for i, size in enumerate(sizes) for k in range(size)]
    lots = grouped(names, GOOD, "folder")
    shares = [lots.share(rank, ranks) for rank in range(ranks)]
    assert sorted(picture for share in shares for picture in share.pictures) == [*range(len(names))]
    assert [size for share in shares for size in share.sizes] == sorted(sizes)  # 大小相同的相邻
    members = {tuple(group) for group in lots.members}
    for share in shares:
        ends = np.cumsum(share.sizes, dtype=int)
        groups = {tuple(share.pictures[end - size : end]) for end, size in zip(ends, share.sizes, strict=True)}
        assert groups <= members


def lots_of(count: int, size: int):
    return grouped(numbered(count * size), GOOD, size), numbered(count * size)


def test_the_distance_says_what_lots_do():
    rng = np.random.default_rng(0)
    lots, names = lots_of(6, 20)
    alone = rng.normal(20, 2, 120).tolist()
    (line,) = remarks(lots, (np.array(alone) + 0.1).tolist(), alone, names)
    assert line.endswith("the lots are much alike")
    (line,) = remarks(lots, (np.array(alone) + 5).tolist(), alone, names)
    low, high = np.percentile(alone, 99), np.percentile(alone, 99) + 5
    assert f"left out alone {low:.1f}, by lots {high:.1f}: new lots will score higher than these pictures" in line
    assert line.endswith("for new pictures of these very lots give --leave_out one")
    few, names = lots_of(4, 30)
    (line,) = remarks(few, (np.array(alone) + 5).tolist(), alone, names)
    assert line.endswith("; with 4 lots the threshold rests on little: photograph at least 5")
    uneven = grouped([f"{GOOD}/{max(i, 65) if i < 120 else 0}/{i}.png" for i in range(120)], GOOD, "folder")
    (line,) = remarks(uneven, alone, alone, names)
    assert line.endswith("; one lot holds 66 of 120 pictures: the threshold rests on little")


def test_a_lot_that_stands_out_is_named_as_a_whole():
    rng = np.random.default_rng(0)
    lots, names = lots_of(6, 20)
    scores = rng.normal(10, 1, 120)
    scores[40:60] += 20
    scores[3] = 40
    lines = remarks(lots, scores.tolist(), scores.tolist(), names)
    median = np.median(scores[40:60])
    assert f"lots that stand out as a whole: {GOOD}/040.png to {GOOD}/059.png (median {median:.1f})" in lines
    assert lines[-1].endswith(f": {GOOD}/003.png (40.0)")  # 整批说过了，其中的不再一张张说
    assert list(lots_that_stand_out(scores.tolist(), lots.of_pictures())) == [f"{GOOD}/040.png to {GOOD}/059.png"]


def test_a_group_that_does_not_fit_says_how_large_it_may_be():
    model = PaDiM("resnet18", "random", dimensions=12, size=(32, 32))
    each = model.image_bytes + 12 * 32 * 32
    memory.check_group(model, "x", BLOCK, 0)
    memory.check_group(model, "x", BLOCK + 7, 7 * each)
    with pytest.raises(
        UserError, match=rf"class 'x': leaving 200 .* a group may have {BLOCK + 7}: give --leave_out 135"
    ):
        memory.check_group(model, "x", 200, 8 * each - 1)


def test_the_option():
    given = [experiment(["--leave_out", text]).leave_out for text in ("one", "folder", "60", "1")]
    assert given == ["one", "folder", 60, "one"] and experiment([]).leave_out is None
    for text in ("0", "-3", "two", "1.5"):
        with pytest.raises(SystemExit):
            experiment(["--leave_out", text])


FAST = ["--arch", "resnet18", "--weights", "random", "--figures", "none", "--rd", "20", "--resize", "64", "--crop", "0"]


def record(out: Path, name: str = "flange") -> dict:
    return json.loads((out / f"temp_resnet18/train_{name}.json").read_text(encoding="utf-8"))


def test_a_run_leaves_lots_out(sample, tmp_path, capsys):
    """The scores of both kinds in one pass; made again only where they are asked for otherwise."""
    out = tmp_path / "out"
    command = [*FAST, "--data_path", str(sample), "--save_path", str(out), "--classes", "flange"]
    assert main.main([*command, "--leave_out", "one"]) == 0
    one, store = record(out), Store(out, "resnet18")
    assert one["left_out"] == {"by": "one", "groups": 8} and one["left_out_alone_scores"] is None
    assert store.read_left_out("flange")["lots"] is None
    capsys.readouterr()

    assert main.main([*command, "--leave_out", "3"]) == 0
    assert "by lots" in capsys.readouterr().out
    lots = record(out)
    assert lots["left_out"] == {"by": 3, "groups": 3}
    np.testing.assert_allclose(lots["left_out_alone_scores"], one["left_out_scores"], rtol=1e-4)
    assert np.median(lots["left_out_scores"]) > np.median(one["left_out_scores"])
    kept = store.read_left_out("flange")
    assert len(kept["lots"]) == 8 and len(set(kept["lots"].tolist())) == 3
    # 最不寻常的几张，按批留出的得分排
    order = np.argsort(lots["left_out_scores"])[::-1]
    assert kept["files"].tolist() == [f"{GOOD}/{i:03d}.png" for i in order]
    np.testing.assert_allclose(kept["maps"].max((1, 2)), np.sort(lots["left_out_scores"])[::-1], rtol=1e-6)

    made = store.left_out("flange").stat().st_mtime_ns
    for again in (["--leave_out", "3"], []):
        assert main.main([*command, *again]) == 0
        assert store.left_out("flange").stat().st_mtime_ns == made and record(out) == lots
    assert main.main([*command, "--leave_out", "4"]) == 0
    assert record(out)["left_out"] == {"by": 4, "groups": 2}


def test_folders_are_left_out_without_being_asked_for(sample, tmp_path, capsys):
    """Where nothing else gives a threshold; what lies beside the folders is one more group."""
    own, out = shutil.copytree(sample / "flange", tmp_path / "data" / "flange"), tmp_path / "out"
    shutil.rmtree(own / "test")
    for path in sorted((own / GOOD).iterdir())[:6]:
        (day := own / GOOD / f"2026-11-0{3 + int(path.stem) // 3}" / "left camera").mkdir(parents=True, exist_ok=True)
        path.rename(day / path.name)
    command = [*FAST, "--data_path", str(tmp_path / "data"), "--save_path", str(out)]
    assert main.main(command) == 0
    assert "; with 3 lots the threshold rests on little" in capsys.readouterr().out
    known, kept = record(out), Store(out, "resnet18").read_left_out("flange")
    assert known["left_out"] == {"by": "folder", "groups": 3}
    days = {name: kept["lots"].tolist().count(name) for name in kept["lots"].tolist()}
    assert days == {f"{GOOD}/2026-11-03": 3, f"{GOOD}/2026-11-04": 3, GOOD: 2}

    # 与逐组重新拟合得到的得分相同
    train = MVTecDataset(tmp_path / "data", "flange", "train", Preprocessing(64, 0))
    images = torch.stack([torch.from_numpy(train[i][0]) for i in range(8)])
    for lot in days:
        own_lot = kept["lots"] == lot
        model = PaDiM("resnet18", "random", 20, size=(64, 64)).fit([images[~own_lot]])
        wanted = np.concatenate([block.image_scores for block in model.score([images[own_lot]])])
        np.testing.assert_allclose(np.array(known["left_out_scores"])[own_lot], wanted, rtol=1e-3)

    assert main.main([*command, "--leave_out", "one"]) == 0
    np.testing.assert_allclose(record(out)["left_out_scores"], known["left_out_alone_scores"], rtol=1e-4)


def test_new_pictures_are_judged_by_the_lots(sample, tmp_path, capsys):
    out = tmp_path / "out"
    command = [*FAST, "--data_path", str(sample), "--save_path", str(out), "--classes", "flange", "--leave_out", "2"]
    assert main.main(command) == 0
    known, pickle = record(out), out / "temp_resnet18/train_flange.pkl"
    found = find_thresholds(pickle, known, None, 95.0)
    assert found.decision == np.percentile(known["left_out_scores"], 95) and found.good == known["left_out_scores"]
    assert found.origin == "95th percentile of 8 training scores, left out by blocks of 2, 4 groups"
    folders = known | {"left_out": {"by": "folder", "groups": 12}}
    assert find_thresholds(pickle, folders, None, 99.0).origin.endswith("scores, left out by folders, 12 groups")
    capsys.readouterr()
    pictures = str(sample / "flange/test/good")
    assert predict.main(["--model", str(pickle), pictures, "--percentile", "95", "--json"]) == 0
    captured = capsys.readouterr()
    assert "left out by blocks of 2, 4 groups" in captured.err
    for answer in map(json.loads, captured.out.splitlines()):
        higher = sum(score >= answer["score"] for score in known["left_out_scores"])
        assert answer["p_value"] == pytest.approx((1 + higher) / 9, abs=1e-4)


@pytest.mark.parametrize("asked", ["8", "7", "folder"])
def test_too_few_lots_are_an_error_before_anything_is_written(sample, tmp_path, capsys, asked):
    out = tmp_path / "out"
    command = [*FAST, "--data_path", str(sample), "--save_path", str(out), "--leave_out", asked]
    assert main.main(command) == 2
    assert f"error: --leave_out {asked}, class 'flange': " in capsys.readouterr().err and not out.exists()


def test_what_asks_for_no_lots_has_none(sample, tmp_path):
    """Labelled test pictures give a threshold: nothing is left out unless asked for."""
    assert main.main([*FAST, "--data_path", str(sample), "--save_path", str(tmp_path), "--classes", "flange"]) == 0
    known = record(tmp_path)
    assert [known[key] for key in ("left_out_scores", "left_out", "left_out_alone_scores")] == [None] * 3
