"""Every option once: its default, its type, its help.

每个选项只在此处定义一次：默认值、类型、说明。
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets.catalogue import DATASETS
from datasets.folder import FolderDataset
from datasets.preprocessing import BITS, PROTOCOLS
from experiment.methods import METHODS, NETWORKS
from padim import PRECISIONS
from system.command import Parser
from system.files import expanded
from system.resources import cores

STUDIES = ("layers", "dimensions", "seeds", "covariance")
SCALES = ("class", "threshold")  # experiment.report.colours
THREADS = {"cpu": 8, "cuda": 16}  # 解码线程至多这么多：网络在 CPU 上算时，核要分着用

DEMO = {"data_path": Path("data/sample"), "save_path": Path("mvtec_result/demo")}  # 给了 --demo 时的默认值


def at_least(low: int) -> Callable[[str], int]:
    """An argument type: integers from ``low`` on."""

    def number(text: str) -> int:
        if int(text) < low:
            raise ValueError
        return int(text)

    number.__name__ = f"integer (at least {low})"  # argparse 报错时以此称呼
    return number


def between(low: float, high: float, name: str) -> Callable[[str], float]:
    """An argument type: numbers from ``low`` to ``high``, called ``name`` in errors."""

    def number(text: str) -> float:
        if not low <= float(text) <= high:
            raise ValueError
        return float(text)

    number.__name__ = name
    return number


def extent(low: int) -> Callable[[str], int | tuple[int, int]]:
    """An argument type: ``N``, or ``HxW`` (height first), of integers from ``low`` on."""

    def pixels(text: str) -> int | tuple[int, int]:
        if "x" not in text:
            return at_least(low)(text)
        height, width = map(at_least(max(low, 1)), text.split("x"))
        return height, width

    pixels.__name__ = f"number of pixels (N, or HEIGHTxWIDTH; at least {low})"
    return pixels


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError
    return names


_names.__name__ = "list of names with commas between them"


def _class_name(text: str) -> str:
    """A class's name, without the slash with which a shell completes a folder's: ``bottle/``."""
    return text.rstrip("/" + os.sep) or text


def _figures(text: str) -> str | int:
    return text if text in ("all", "none") else at_least(0)(text)


_figures.__name__ = "choice ('all', 'none' or a number)"


def _bits(text: str) -> int:
    if int(text) not in BITS:
        raise ValueError
    return int(text)


_bits.__name__ = "number of bits (8 to 16)"


def _groups(text: str) -> str | int:
    if text in ("one", "folder"):
        return text
    size = at_least(1)(text)
    return "one" if size == 1 else size


_groups.__name__ = "choice ('one', 'folder' or a number of pictures)"


def decoding_threads(given: int | None, device: str) -> int:
    """``--num_workers`` as given, or what it is by default where a ``cpu`` or a ``cuda`` device computes."""
    return max(1, min(THREADS[device], cores() - 1)) if given is None else given


def _decoding(parser: argparse.ArgumentParser) -> None:
    """The options of all commands that read pictures."""
    add = parser.add_argument
    batch_size = (
        "images decoded together; on a GPU or with an exported model also those of a pass (default %(default)s)"
    )
    add("--batch_size", type=at_least(1), default=32, help=batch_size)
    threads = "decoding threads (default: the cores but one, 1 to {cpu}; with a GPU to {cuda})".format(**THREADS)
    add("--num_workers", type=at_least(0), help=threads)
    add("--device", default="auto", help="auto (default: CUDA if there is one), cpu, cuda or cuda:N")


def _network_and_data(parser: argparse.ArgumentParser) -> None:
    """The options of main.py and ablation.py: the network, the pictures, how they are prepared, where results go."""
    add = parser.add_argument
    networks = "wide_resnet50_2, resnet18, efficientnet_lite0, efficientnet_b5, or another of torchvision's"
    add("--arch", default="wide_resnet50_2", help=f"backbone: {networks} (default %(default)s)")
    layers = "the layers that are read (default: the backbone's own)"
    add("--layers", type=_names, metavar="A,B,C", help=layers)
    dataset = f"{', '.join(DATASETS)} (default %(default)s: MVTec AD, or any folder in its layout)"
    add("--dataset", choices=DATASETS, default="mvtec", metavar="NAME", help=dataset)
    place = "one folder a class, or one class (default $MVTEC_PATH, else %(default)s; elpv: the installed package's)"
    add("--data_path", type=expanded, default=FolderDataset.default_root(), help=place)
    add("--save_path", type=expanded, default=Path("mvtec_result"), help="where results go (default %(default)s)")
    classes = "default: the data set's that are there, else all found"
    add("--classes", nargs="+", type=_class_name, metavar="NAME", help=classes)
    add("--weights", default="imagenet", help="imagenet (default), random, or the path of a state dict")
    add("--seed", type=int, default=1024, help="of the random choice of channels (default %(default)s)")
    resize = "shorter side in pixels, or HEIGHTxWIDTH exactly (default %(default)s)"
    add("--resize", type=extent(1), default=256, metavar="N", help=resize)
    crop = "side, or HEIGHTxWIDTH; 0 for none (default %(default)s)"
    add("--crop", type=extent(0), default=224, metavar="N", help=crop)
    protocol = "aligned (default), or rd: random rotation and crop, from --seed"
    add("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0], help=protocol)
    add("--bits", type=_bits, metavar="N", help="of 16-bit pictures, how many are used: 8 to 16 (default: all)")
    _decoding(parser)
    add("--precision", choices=PRECISIONS, default="float32", help="float32 (default), tf32 (GPU), bf16")


def experiment(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of main.py."""
    parser = Parser(prog="main.py", description="PaDiM on MVTec AD, any folder in its layout, or another data set.")
    add = parser.add_argument
    methods = "padim (default), or one of its predecessors: spade, mahalanobis_ad"
    add("--method", choices=METHODS, default="padim", help=methods)
    _network_and_data(parser)
    rd = "channels kept (default: the backbone's own; wide_resnet50_2 550, resnet18 100)"
    add("--rd", type=at_least(1), help=rd)
    add("--top_k", type=at_least(1), default=5, help="nearest training images of spade (default %(default)s)")
    region = "a mask: black is not looked at; or a folder with CLASS.png (default: all of the picture)"
    add("--region", type=expanded, metavar="MASK", help=region)
    reduction = "to fewer channels: random (default), or pca"
    add("--reduction", choices=("random", "pca"), default="random", help=reduction)
    add("--figures", type=_figures, default="all", metavar="N", help="a class: all (default), none, a number")
    heat = "class, the class's least to largest score; threshold, 0 to twice the threshold"
    default = "class where the run is the published one, else threshold"
    add("--colours", choices=SCALES, help=f"of heat maps: {heat} (default: {default})")
    left_out = "training pictures are scored as if left out, for a threshold without labels"
    groups = "one by one, by folders within train/good, or N in a row"
    add("--leave_out", type=_groups, metavar="one|folder|N", help=f"{left_out}: {groups}")
    add("--no_features", action="store_true", help="neither read nor write the pickled training features")
    add("--refit", action="store_true", help="replace what is stored, whatever made it")
    demo = "run on procedural sample data with efficientnet_lite0; needs no download"
    add("--demo", action="store_true", help=demo)
    args = parser.parse_args(argv)
    method = METHODS[args.method]
    parser.set_defaults(arch=method.arch, data_path=DATASETS[args.dataset].default_root())
    if args.demo:
        parser.set_defaults(**DEMO, arch=method.demo)
        network = NETWORKS.get(parser.parse_args(argv).arch)
        parser.set_defaults(weights="imagenet" if network and network.is_installed else "random")  # 不用下载
    args = parser.parse_args(argv)
    if args.demo and (args.data_path != DEMO["data_path"] or args.dataset != "mvtec"):
        parser.error("--demo brings its own data; leave out --data_path and --dataset")
    if args.region and args.protocol == "rd":
        parser.error("--region is a place in the picture, and --protocol rd moves every picture; leave one of them out")
    if args.leave_out and args.no_features:
        parser.error("--leave_out stores its scores beside the features; give no --no_features")
    for name in method.meaningless:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} means nothing for --method {args.method}; leave it out")
    if args.method != "padim" and args.protocol == "aligned" and args.seed != parser.get_default("seed"):
        parser.error(f"--seed means nothing for --method {args.method} without --protocol rd; leave it out")
    if not method.has_gaussians:
        args.no_features = True  # 没有可存的
    if not method.has_maps:
        args.figures = "none"
    return args


def defaults() -> dict[str, Any]:
    """What main.py's options are where none is given."""
    return vars(experiment([]))


def study(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of ablation.py."""
    description = "Studies from one pass of the backbone: layers, dimensions, the spread over seeds, the covariance."
    parser = Parser(prog="ablation.py", description=description)
    _network_and_data(parser)
    add = parser.add_argument
    add("--study", nargs="+", choices=STUDIES, default=list(STUDIES), help="default: all four")
    add("--rd", type=at_least(1), help="channels kept by the random choices (default 100; wide_resnet50_2 550)")
    dimensions = "of the study of dimensions (default 10 25 50 100 200 300, as far as there are)"
    add("--dimensions", nargs="+", type=at_least(1), metavar="D", help=dimensions)
    add("--refit", action="store_true", help="replace stored studies made another way, of other data, with other rows")
    parser.set_defaults(arch="resnet18")
    parser.set_defaults(data_path=DATASETS[parser.parse_args(argv).dataset].default_root())
    return parser.parse_args(argv)


def prediction(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The command line of predict.py."""
    parser = Parser(prog="predict.py", description=description)
    add = parser.add_argument
    pictures = "folders with all folders below them; - alone: pictures whose names come on stdin, one a line"
    add("pictures", nargs="+", type=Path, metavar="PICTURE_OR_FOLDER", help=pictures)
    model = "mvtec_result/temp_ARCH/train_CLASS.pkl, or what export.py made of it"
    add("--model", type=expanded, required=True, metavar="PKL_OR_ONNX", help=model)
    add("--out", type=expanded, metavar="DIR", help="predictions.csv and pictures/ go there (default: rows on stdout)")
    add("--json", action="store_true", help="JSON lines in place of the rows; with --out in predictions.jsonl, too")
    score = between(-sys.float_info.max, sys.float_info.max, "number")
    add("--threshold", type=score, help="scores from here on are defects (default: the stored one)")
    percentile = between(0, 100, "percentile (0 to 100)")
    add("--percentile", type=percentile, help="of the left-out (or validation) scores, as threshold (default 99)")
    add("--figures", choices=["all", "none"], help="localization figures (default all with --out, else none)")
    heat = "of heat maps: threshold (default), or class, as main.py's"
    add("--colours", choices=SCALES, default="threshold", help=heat)
    add("--maps", action="store_true", help="with --out: raw maps (maps/*.tif) and masks (masks/*.png), at full size")
    add("--weights", help="as given to main.py (default: as recorded)")
    _decoding(parser)
    args = parser.parse_args(argv)
    for option, is_wanted in (("figures all", args.figures == "all"), ("maps", args.maps)):
        if is_wanted and args.out is None:
            parser.error(f"--{option} needs a folder for them; give --out")
    if args.threshold is not None and args.percentile is not None:
        parser.error("--threshold and --percentile exclude each other; leave out one of them")
    args.figures = args.figures or ("all" if args.out else "none")
    return args


def _onnx(text: str) -> Path:
    if not text.endswith(".onnx"):
        raise ValueError
    return expanded(text)


_onnx.__name__ = "file name that ends in .onnx"


def exporting(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The command line of export.py."""
    parser = Parser(prog="export.py", description=description.partition("\n")[0])
    add = parser.add_argument
    add("--model", type=expanded, required=True, metavar="PKL", help="mvtec_result/temp_ARCH/train_CLASS.pkl")
    add("--out", type=_onnx, required=True, metavar="ONNX", help="the file to write; above 2 GB FILE.onnx.data, too")
    add("--half", action="store_true", help="store the whitening matrices as float16: half the size")
    add("--weights", help="as given to main.py (default: as recorded)")
    return parser.parse_args(argv)
