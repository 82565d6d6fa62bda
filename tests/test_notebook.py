"""The notebook section of experiment/README.md, run as it is printed but for the weights and the names of the data."""

import csv
import io

from conftest import ROOT

import predict


def printed() -> str:
    text = (ROOT / "experiment" / "README.md").read_text(encoding="utf-8")
    return text.split("\n## In a notebook\n")[1].split("```python\n")[1].split("```")[0]


def test_the_section_runs_and_predict_uses_what_it_saves(sample, tmp_path, monkeypatch, capsys):
    code = printed()
    for words, here in (('PaDiM("resnet18")', 'PaDiM("resnet18", "random")'), ('"FOLDER"', repr(str(sample)))):
        assert words in code
        code = code.replace(words, here)
    monkeypatch.chdir(tmp_path)
    known: dict = {}
    exec(code.replace('"bottle"', '"linen"'), known)
    assert "(9, 224, 224)" in capsys.readouterr().out
    for mine, loaded in zip(known["model"].state(), known["same"].state(), strict=True):
        assert (mine == loaded).all()
    assert len(known["left_out"]) == len(known["train"]) == known["same"].count == 8

    assert predict.main(["--model", "train_bottle.pkl", str(sample / "linen/test"), "--num_workers", "0"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 9 and {row["decision"] for row in rows} <= {"good", "defect"}
    assert all(row["p_value"] for row in rows) and "training" in err
