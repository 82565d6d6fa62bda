"""The documents: Chinese and English say the same, and both say what the code does."""

import csv
import json
import re
import shlex
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from plotting import SCRIPTS, script

from experiment import options
from experiment.files.records import PREDICTIONS, STUDIES
from experiment.report.published import sentence

ROOMS = (".", "datasets", "mvtec_result", "plot")  # 有中文的
PAIRS = [(ROOT / room / "README.md", ROOT / room / "README.zh-CN.md") for room in ROOMS]
DOCUMENTS = [path for pair in PAIRS for path in pair]
DOCUMENTS += [ROOT / name for name in ("experiment/README.md", "benchmarks/README.md", "CONTRIBUTING.md")]
PARSERS = {
    "main.py": options.experiment,
    "ablation.py": options.study,
    "predict.py": lambda words: options.prediction(words, ""),
    "export.py": lambda words: options.exporting(words, ""),
}
DEPENDENT = {"data_path", "study", "figures", "model", "out"}  # 默认值取决于环境或别的选项，或另有说法


def title(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parts(path: Path) -> tuple[list[list[str]], list[str]]:
    """The lines of every code block, and the lines outside of them."""
    blocks, outside, inside = [], [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
            blocks += [[line]] if inside else []
        else:
            (blocks[-1] if inside else outside).append(line)
    return blocks, outside


def prose(path: Path) -> str:
    return "\n".join(parts(path)[1])


def code(path: Path) -> list[list[str]]:
    """The code blocks without their comments."""
    return [[re.sub(r"\s+# .*", "", line) for line in block] for block in parts(path)[0]]


def headings(path: Path) -> list[tuple[int, str]]:
    found = re.findall(r"^(#+) (.*)$", prose(path), re.MULTILINE)
    return [(len(marks), words) for marks, words in found]


def names(path: Path) -> Counter:
    """What stands between backticks (options, files, keys, values), but for words of Chinese."""
    words = (" ".join(word.split()) for word in re.findall(r"`([^`]+)`", prose(path)))
    return Counter(word for word in words if not re.search(r"[\u4e00-\u9fff]", word))


def numbers(path: Path) -> Counter:
    return Counter(re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "]", prose(path))))


def rows(path: Path, heading: str) -> dict[str, list[str]]:
    """The cells of the tables between a heading and the next, by the row's first cell."""
    text = re.split(rf"^#+ {re.escape(heading)}$", prose(path), flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", text, flags=re.MULTILINE)[0]
    lines = [
        [cell.strip(" `*") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: title(pair[0]))
def test_both_languages_say_the_same(pair):
    english, chinese = pair
    for what in (code, names, numbers):
        assert what(english) == what(chinese)
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    for each in (r"^\|.*", r"^- ", r"^!\["):  # 表的行、列表的项、图
        found = [re.findall(each, prose(path), re.MULTILINE) for path in pair]
        assert [line.count("|") for line in found[0]] == [line.count("|") for line in found[1]]


@pytest.mark.parametrize("path", PAIRS[0], ids=title)
def test_the_main_documents_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 220


def anchor_of(heading: str) -> str:
    kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LNM"]
    return "".join(kept).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", prose(path)):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        assert not anchor or anchor in [anchor_of(words) for _, words in headings(target)], link
        if path.name == "README.zh-CN.md" and target.parent != path.parent:  # 有中文的，不引到英文去
            assert target not in [english for english, _ in PAIRS], link


def test_commands_are_taken():
    """Every call of a command in a code block is one that it understands."""
    lines = [line for path in DOCUMENTS for block in code(path) for line in block]
    calls = [call for line in lines for call in re.split(r" (?:&&|\|) ", line)]
    taken = [
        parse(shlex.split(call.partition(f" {command} ")[2]))
        for call in calls
        for command, parse in PARSERS.items()
        if f" {command} " in call
    ]
    assert len(taken) > 20


@pytest.mark.parametrize(
    ("heading", "words", "parse"),
    [
        ("Options of main.py", [], PARSERS["main.py"]),
        ("The paper's studies", [], PARSERS["ablation.py"]),
        ("Scoring new pictures", ["--model", "x.pkl", "y.png"], PARSERS["predict.py"]),
        ("Export", ["--model", "x.pkl", "--out", "x.onnx"], PARSERS["export.py"]),
    ],
)
def test_every_option_is_described_with_its_default(heading, words, parse):
    path = ROOT / "experiment" / "README.md"
    section = path.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table, defaults = rows(path, heading), vars(parse(words))
    for option, default in defaults.items():
        assert option == "pictures" or f"`--{option}`" in section, option
        if f"--{option}" in table and option not in DEPENDENT and default is not None:
            assert table[f"--{option}"][0] == ("off" if default is False else str(default)), option
    assert {row for row in table if row.startswith("--") and row != "---"} <= {f"--{option}" for option in defaults}


@pytest.mark.parametrize("heading", ["Options of main.py", "Scoring new pictures"])
def test_the_default_of_decoding_threads(heading, monkeypatch):
    """It depends on the device and the cores: the table says what the code does."""
    path, most = ROOT / "experiment" / "README.md", options.THREADS
    assert rows(path, heading)["--num_workers"][0] == f"cores − 1 (1 to {most['cpu']}; with a GPU to {most['cuda']})"
    for cores, threads in ((1, (1, 1)), (2, (1, 1)), (9, (8, 8)), (12, (8, 11)), (64, (8, 16))):
        monkeypatch.setattr(options, "cores", lambda cores=cores: cores)
        assert tuple(options.decoding_threads(None, device) for device in ("cpu", "cuda")) == threads
        assert options.decoding_threads(0, "cuda") == 0


def test_every_plot_script_and_option_is_described():
    path = ROOT / "plot" / "README.md"
    assert {row for row in rows(path, "The figures") if row.endswith(".py")} == {
        f"{n}.py" for n in SCRIPTS if n != "all"
    }
    taken = {word for name in SCRIPTS for action in script(name).options()._actions for word in action.option_strings}
    assert {row for row in rows(path, "Options") if re.match("--[a-z]", row)} == taken - {"-h", "--help"}


def keys(content: object) -> set[str]:
    """All keys of a record, and of those in it; the options are described elsewhere."""
    if isinstance(content, (list, tuple)):
        return set().union(*map(keys, content))
    if not isinstance(content, dict):
        return set()
    below = (keys(value) for key, value in content.items() if key != "options")
    return {key for key in content if isinstance(key, str)}.union(*below)


def test_every_file_array_and_key_is_described(result):
    described = set(names(ROOT / "mvtec_result" / "README.md"))
    files = [p.relative_to(result).as_posix() for p in result.rglob("*") if p.is_file()]
    files = [re.sub("linen|flange", "{class}", file.replace("resnet18", "{arch}")) for file in files]
    assert {file.replace("_0.png", "_{i}.png") for file in files} <= described
    for file in ("scores_resnet18/linen.npz", "temp_resnet18/train_linen_left_out.npz"):
        with np.load(result / file) as arrays:
            assert set(arrays.files) <= described
    for file in ("temp_resnet18/train_linen.json", "results_resnet18.json"):
        content = json.loads((result / file).read_text(encoding="utf-8"))
        assert keys(content) - {"linen", "flange"} <= described
    assert {key.rstrip("?") for key in keys(STUDIES) | keys(PREDICTIONS)} <= described
    with open(result / "results_resnet18.csv", encoding="utf-8", newline="") as file:
        assert set(next(csv.reader(file))) <= described


def test_the_published_table_is_the_one_compared_with():
    columns = [f"{arch}_{level}" for arch in ("resnet18", "wide_resnet50_2") for level in ("image", "pixel")]
    with open(ROOT / "experiment" / "report" / "published.csv", encoding="utf-8", newline="") as file:
        wanted = {
            row["class"].removeprefix("all_"): [f"{float(row[c]):.3f}" for c in columns] for row in csv.DictReader(file)
        }
    assert wanted.items() <= rows(ROOT / "README.md", "The published table").items()


def test_the_measured_rows_are_those_of_the_benchmarks():
    measured = rows(ROOT / "README.md", "Measured here")
    assert len(measured) > 5 and measured.items() <= rows(ROOT / "benchmarks" / "README.md", "Measured").items()


@pytest.mark.parametrize("reproduced", [True, False, None])
def test_the_verdicts_are_in_the_words_of_the_program(reproduced):
    words, _, _ = sentence({"reproduced": reproduced, "reason": ""}).partition(":")
    assert words in (ROOT / "README.md").read_text(encoding="utf-8")
