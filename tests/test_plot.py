"""Every script draws, in both languages and formats, nothing clipped, overlapping or too small."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from plotting import PLOT, SCRIPTS, script
from synthetic import write_ablation, write_results

# 每个脚本画的图，不带后缀；{arch} 为短名
FIGURES = {
    "roc_curve": ["roc_curve_r18"],
    "localization": ["flange"],
    "auroc_table": ["auroc_table"],
    "score_distribution": ["score_distribution_r18"],
    "precision_recall": ["precision_recall_r18"],
    "pro_curve": ["pro_curve_r18"],
    "gaussian_parameters": ["gaussian_parameters_flange_r18"],
    "patch_gaussian": ["patch_gaussian_flange_r18"],
    "model_parameters": ["model_parameters_r18"],
    "framework": ["framework"],
    "complexity": ["complexity"],
    "training_pictures": ["training_pictures_flange_r18"],
    "ablation": ["ablation_r18"],
    "calibration": ["calibration_r18"],
}


PREDECESSORS = ("spade_wide_resnet50_2", "mahalanobis_ad_efficientnet_b4")


@pytest.fixture(scope="session")
def small(result) -> Path:
    """What main.py itself writes for the two sample classes, and studies."""
    write_ablation(result, "resnet18", ("flange",))
    return result


@pytest.fixture(scope="session")
def fifteen(tmp_path_factory) -> Path:
    """Results of all methods."""
    root = tmp_path_factory.mktemp("fifteen")
    for seed, key in enumerate(("resnet18", "wide_resnet50_2", *PREDECESSORS)):
        write_results(root, key, seed=seed)
    write_ablation(root, "wide_resnet50_2")
    return root


@pytest.fixture(scope="session")
def single(tmp_path_factory) -> Path:
    """Results of a product of one's own."""
    root = tmp_path_factory.mktemp("single")
    write_results(root, "resnet18", ("widget",))
    write_ablation(root, "resnet18", ("widget",))
    return root


@pytest.fixture(scope="session")
def wordy(tmp_path_factory) -> Path:
    """Results of classes with names as people give them."""
    root = tmp_path_factory.mktemp("wordy")
    names = [
        f"{start}_{i}"
        for i in range(5)
        for start in ("transistor_housing_left_hand_side", "法兰盘_左侧_高温退火_第二批次", "a")
    ]
    write_results(root, "resnet18", tuple(names))
    return root


def run(name: str, *options: object) -> int:
    return script(name).main([str(o) for o in options])


def shown_texts(figure: Figure) -> list[Text]:
    """Every text that is printed; tick labels outside the axis are not."""
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) if ax.axison]
    ticks = {
        text
        for axis in figure.findobj(Axis)
        for tick in axis.majorTicks + axis.minorTicks
        for text in tick.findobj(Text)
    }
    drawn = [tick.label1 for axis in axes if axis.get_visible() for tick in axis._update_ticks()]
    texts = [t for t in figure.findobj(Text) if t not in ticks] + drawn
    return [t for t in texts if t.get_visible() and t.get_text().strip()]


def problems(figure: Figure) -> list[str]:
    """What is too small, clipped or overlapping at print size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, found = canvas.get_renderer(), []
    texts = [(t, t.get_window_extent(renderer)) for t in shown_texts(figure)]
    width, height = figure.bbox.size
    for text, box in texts:
        words = text.get_text()
        if text.get_size() * (0.7 if "$" in words else 1) < 6.99:
            found.append(f"{words!r} has {text.get_size()} pt")
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(f"{words!r} is clipped: {box}")
    upright = [(t, box) for t, box in texts if t.get_rotation() % 90 == 0]
    for (one, a), (other, b) in combinations(upright, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > 1 and up > 0.25 * min(a.height, b.height):
            found.append(f"{one.get_text()!r} and {other.get_text()!r} overlap")
    return found


@pytest.fixture
def checked(monkeypatch) -> list[Figure]:
    """The figures that are written; each is checked on its way."""
    figures, write = [], Figure.savefig

    def savefig(figure: Figure, *args, **kwargs):
        if figure not in figures:
            figures.append(figure)
            assert problems(figure) == []
        write(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


@pytest.fixture
def checked_only(monkeypatch, checked) -> list[Figure]:
    """The same, but the files stay empty: drawing once is enough to check a layout."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: check(figure, path, checked))
    return checked


def check(figure: Figure, path: Path, figures: list[Figure]) -> None:
    assert problems(figure) == []
    figures.append(figure)
    path.touch()


def test_the_list_of_scripts():
    assert {*FIGURES, "all", "compare", "results_page"} == set(SCRIPTS)


@pytest.mark.lowest
@pytest.mark.filterwarnings("error:.*(Glyph|layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_run_of_two_classes(name, language, small, tmp_path, checked):
    assert run(name, "--result", small, "--out", tmp_path, "--lang", language, "--dpi", 100) == 0
    assert checked
    suffix = "_zh" if language == "zh" else ""
    stems = [f"{stem}{suffix}" for stem in FIGURES[name]]
    assert {p.stem for p in tmp_path.iterdir()} == set(stems)
    for stem in stems:
        with Image.open(tmp_path / f"{stem}.png") as picture:
            assert 300 < picture.width <= 730 and picture.height <= 930
        check_pdf(tmp_path / f"{stem}.pdf", has_images=name in ("localization", "training_pictures"))


def check_pdf(path: Path, has_images: bool) -> None:
    content = path.read_bytes()
    assert content.startswith(b"%PDF") and (has_images or len(content) < 1_000_000)
    kinds = re.findall(rb"/Subtype /(Type0|Type1|Type3|TrueType|CIDFontType\w+)", content)
    assert kinds and b"Type1" not in kinds
    outlined = [k for k in kinds if k in (b"TrueType", b"CIDFontType2")]
    assert len(re.findall(rb"/FontFile2", content)) >= len(outlined)
    assert not re.search(rb"/CreationDate", content)


@pytest.mark.filterwarnings("error:.*(Glyph|layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", [s for s in FIGURES if s != "framework"])
def test_fifteen_classes(name, language, fifteen, tmp_path, checked_only):
    options = ["--result", fifteen, "--out", tmp_path, "--lang", language, "--format", "png"]
    together = name in ("auroc_table", "complexity")  # 各模型画在一图里
    assert run(name, *options, *([] if together else ["--arch", "wide_resnet50_2"])) == 0
    assert len(checked_only) == 1


@pytest.mark.filterwarnings("error:.*(Glyph|layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize("name", [s for s in FIGURES if s != "framework"])
def test_one_class(name, single, tmp_path, checked_only):
    assert run(name, "--result", single, "--out", tmp_path, "--format", "png") == 0
    assert len(checked_only) == 1


@pytest.mark.filterwarnings("error:.*(layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize(
    "name", [s for s in FIGURES if s not in ("framework", "ablation", "complexity", "model_parameters")]
)
def test_long_names(name, wordy, tmp_path, checked_only):
    assert run(name, "--result", wordy, "--out", tmp_path, "--format", "png") == 0
    assert len(checked_only) == 1


@pytest.mark.filterwarnings("error:.*(Glyph|layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_models_side_by_side(language, fifteen, tmp_path, checked_only):
    options = ["--result", fifteen, "--out", tmp_path, "--lang", language, "--format", "png", "--class", "pill"]
    assert run("localization", *options, "--compare") == 0
    assert run("localization", *options, "--compare", "--index", *range(10)) == 0
    assert len(checked_only[0].axes) == 4 * 5 + 1 and checked_only[1].get_figheight() < 9.5


@pytest.mark.filterwarnings("error:.*(Glyph|layout|font)", "error::RuntimeWarning")
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["roc_curve", "score_distribution", "precision_recall", "pro_curve"])
def test_predecessors(name, language, fifteen, tmp_path, checked_only):
    options = ["--result", fifteen, "--out", tmp_path, "--lang", language, "--format", "png", "--arch", *PREDECESSORS]
    count = 2 if name in ("roc_curve", "score_distribution") else 1
    assert run(name, *options[: len(options) + count - 2]) == 0
    stems = [f"{name}_{short}" for short in ("mahalanobis_ad_enb4", "spade_wr50")[-count:]]
    assert sorted(p.stem.removesuffix("_zh") for p in tmp_path.iterdir()) == stems


def test_each_architecture_has_its_own_figure(fifteen, tmp_path, checked_only):
    assert run("model_parameters", "--result", fifteen, "--out", tmp_path, "--format", "png") == 0
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["model_parameters_r18", "model_parameters_wr50"]


def test_condition_numbers(fifteen, tmp_path, checked):
    options = ["--result", fifteen, "--out", tmp_path, "--dpi", 50, "--arch", "resnet18", "--condition"]
    assert run("gaussian_parameters", *options, "--class", "screw", "--position", 3, 4) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"gaussian_parameters_screw_r18.{s}" for s in ("pdf", "png")]


def test_ten_rows_fit_a_page(fifteen, tmp_path, checked):
    options = ["--result", fifteen, "--out", tmp_path, "--dpi", 50, "--format", "png", "--class", "pill"]
    assert run("localization", *options, "--index", *range(10)) == 0
    assert checked[0].get_figheight() < 9.5


def test_everything(tmp_path, capsys):
    """All figures of all methods and classes; what a method does not have is not even tried."""
    root, out = tmp_path / "result", tmp_path / "out"
    for key, classes in {"resnet18": ("tile", "bottle"), **dict.fromkeys(PREDECESSORS, ("tile",))}.items():
        write_results(root, key, classes)
    write_ablation(root, "resnet18", ("tile",))
    assert run("all", "--result", root, "--out", out, "--dpi", 50, "--format", "png") == 0
    drawn = {
        stem.replace("flange", name) for stems in FIGURES.values() for stem in stems for name in ("tile", "bottle")
    }
    drawn |= {f"{name}_{short}" for name in ("roc_curve", "score_distribution")
              for short in ("spade_wr50", "mahalanobis_ad_enb4")}  # fmt: skip
    drawn |= {"comparison_tile", "precision_recall_spade_wr50", "pro_curve_spade_wr50"}
    written = {p.name for p in out.iterdir()}
    assert {n for n in written if n.endswith(".png")} == {f"{stem}.png" for stem in drawn}
    output = capsys.readouterr().out
    assert all(f"wrote {out / name}\n" in output for name in written)
    assert f"wrote {root / 'index.html'}\n" in output and (root / "index.html").exists()
    assert "skipped" not in output


def test_trouble_in_one_class_costs_that_class_alone(tmp_path, capsys):
    """Its features are gone and its scores damaged; what two models have scored is compared all the same."""
    root, names = tmp_path / "result", ("bottle", "tile", "zipper")
    for key in ("resnet18", "spade_wide_resnet50_2"):
        write_results(root, key, names if key == "resnet18" else names[:2])
    (root / "temp_resnet18" / "train_bottle.pkl").unlink()
    (root / "scores_resnet18" / "bottle_maps.npy").write_bytes(b"")
    (root / "temp_resnet18" / "train_bottle_left_out.npz").write_bytes(b"")
    assert run("all", "--result", root, "--out", tmp_path / "out", "--dpi", 50, "--format", "png") == 0
    drawn, output = {path.stem for path in (tmp_path / "out").iterdir()}, capsys.readouterr().out
    for figure in ("{}", "gaussian_parameters_{}_r18", "patch_gaussian_{}_r18", "training_pictures_{}_r18"):
        assert {figure.format("tile"), figure.format("zipper")} <= drawn and figure.format("bottle") not in drawn
    assert "comparison_tile" in drawn and not any("bottle" in name for name in drawn)
    assert drawn == {Path(line).stem for line in re.findall(r"^wrote (.+)\.png$", output, re.M)}
    skipped = re.findall(r"^skipped (.+?) \((.+?)\): '(.+?)' is", output, re.M)
    assert {(script, Path(file).name) for script, _, file in skipped} == {
        ("localization --compare --class=bottle", "bottle_maps.npy"),
        ("gaussian_parameters --class=bottle", "train_bottle.pkl"),
        ("patch_gaussian --class=bottle", "train_bottle.pkl"),
        ("training_pictures --class=bottle", "train_bottle_left_out.npz"),
    } and re.search(r"^skipped localization --class=bottle: '.+bottle_maps.npy' is", output, re.M)


def test_everything_of_nothing_in_both_languages(tmp_path, capsys):
    options = ["--result", tmp_path / "none", "--out", tmp_path / "out", "--lang", "en,zh", "--format", "png"]
    assert run("all", *options) == 0
    output = capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["framework.png", "framework_zh.png"]
    for name in {*FIGURES, "results_page"} - {"framework", "ablation", "training_pictures"}:
        assert len(re.findall(rf"^skipped {name}: no results .* python main.py ", output, re.M)) == 1


@pytest.mark.slow
def test_as_processes_from_another_folder(small, tmp_path):
    def start(name):
        (tmp_path / name).mkdir()
        options = ["--help"] if name == "all" else ["--result", small]
        options += ["--format", "pdf"] if name in FIGURES else []
        command = [sys.executable, PLOT / f"{name}.py", *options]
        return subprocess.Popen(command, cwd=tmp_path / name, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for name, process in [(s, start(s)) for s in SCRIPTS]:
        output, errors = process.communicate()
        assert process.returncode == 0 and errors == ""
        if name in FIGURES:
            stem = FIGURES[name][0]
            assert f"wrote {Path('imgs') / stem}.pdf\n" in output
            assert (tmp_path / name / "imgs" / f"{stem}.pdf").exists()


def start_everything(small: Path, out: Path) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """plot/all.py in a process group of its own, once its children draw."""
    command = [sys.executable, PLOT / "all.py", "--result", small, "--out", out, "--dpi", "600"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not (out.is_dir() and any(out.iterdir())):
        time.sleep(0.02)
    return process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups to signal")
@pytest.mark.parametrize(
    ("kind", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_everything_interrupted(kind, status, small, tmp_path):
    """Ctrl-C goes to the whole process group: one line, and no child is left or speaks."""
    process, children = start_everything(small, tmp_path / "out")
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    _, errors = process.communicate(timeout=30)
    assert children and (process.returncode, errors) == (status, "interrupted\n")
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.skipif(sys.platform == "win32", reason="children end with the job there")
def test_children_end_when_their_parent_is_killed(small, tmp_path):
    process, children = start_everything(small, tmp_path / "out")
    process.kill()
    assert children and psutil.wait_procs(children, timeout=10)[1] == []
    process.communicate()


WITHOUT_TORCH = (
    *(f"files.{name}" for name in ("folder", "gaussians", "provenance", "records", "unpickle")),
    *(f"report.{name}" for name in ("figures", "published", "results", "style", "threshold")),
    *("methods", "options", "studies", "scoring.answers", "scoring.onnx_model", "scoring.defects", "scoring.session"),
)


def test_no_model_is_imported():
    """Neither for a figure nor for what reads and draws results: torch takes seconds."""
    names = ", ".join(sorted(p.stem for p in PLOT.glob("*.py")))
    rooms = ", ".join(f"experiment.{name}" for name in WITHOUT_TORCH)
    code = (
        f"import sys; sys.path.insert(0, {str(PLOT)!r}); import {names}, {rooms}; "
        "print({'torch', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules), hasattr(ablation, 'PANELS'))"
    )
    found = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert found.strip() == "set() True"
