"""What is checked before a run begins, and what it goes on with: nothing is written before all of it holds.

开始之前查些什么、从哪里接着做：全部通过之前不写任何东西。
"""

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Collection
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm import tqdm

from datasets.catalogue import DATASETS, find_classes, locate
from datasets.check import CheckedClass, check_class, cut_off
from datasets.folder import SPLITS
from datasets.preprocessing import Preprocessing
from experiment import memory
from experiment.files.folder import Store
from experiment.files.provenance import DataFolder, stored_state
from experiment.files.records import configuration
from experiment.good_scores import left_out_by, outdated
from experiment.lots import to_leave_out
from experiment.models import describe
from experiment.ranks import Ranks
from experiment.report.results import kept_results, remark
from experiment.saving import stored_record
from system.errors import UserError
from system.files import check_writable

if TYPE_CHECKING:
    from padim.model import PaDiM
    from padim.pretrained import Pretrained


def check_data(args: argparse.Namespace, store: Store) -> tuple[DataFolder, dict[str, CheckedClass]]:
    """The data folder of ``args.data_path`` and its classes, or ``args.classes``, checked; and that one can write.

    With --demo the sample data is drawn first, where it is not there as this version draws it. What a user should know
    of the pictures is said, and is among each class's remarks.

    Raises
    ------
    UserError
        If the data is not in order.
    OSError
        If nothing can be written to the result folder.
    """
    if getattr(args, "demo", False):
        from datasets.sample import renew_sample

        renew_sample(args.data_path)
    dataset = DATASETS[args.dataset]
    preprocessing = Preprocessing(args.resize, args.crop, args.protocol, args.seed, args.bits)
    root, wanted = locate(dataset, args.data_path, args.classes)
    bar = tqdm(find_classes(dataset, root, wanted), desc="checking", unit="class")
    region = getattr(args, "region", None)
    checked = {name: check_class(dataset, root, name, preprocessing, region) for name in bar}
    check_writable(store.root)
    if getattr(args, "leave_out", None) and any(len(dataset(root, name, "validation")) for name in checked):
        raise UserError(f"{args.dataset} has validation pictures, which give a threshold; give no --leave_out")
    for name, found in checked.items():
        for words in found.remarks:
            remark(name, words)
    return DataFolder(dataset, root, preprocessing, region), checked


def begin(
    args: argparse.Namespace,
    checked: dict[str, CheckedClass],
    data: DataFolder,
    store: Store,
    model: "Pretrained",
    ranks: Ranks,
    held: ExitStack,
) -> dict[str, Any]:
    """Check memory and what is stored, lock the folder, and return the results to go on with.

    Parameters
    ----------
    held : ExitStack
        Gets the lock.

    Raises
    ------
    UserError
        If a class does not fit, or its training pictures cannot be left out as asked; another run writes here; what is
        stored was made another way or from other data.
    """
    from padim.device import describe_device  # 连带 torch：数据的检查不必等它

    is_stored = not args.no_features
    for name, found in checked.items():
        room = memory.check(
            model,
            name,
            args.batch_size,
            found.n_train,
            found.n_test,
            processes=ranks.local_size,
            stored=is_stored,
            preprocessing=data.preprocessing,
        )
        if is_stored:  # 有高斯可存的，只有 PaDiM
            stored = stored_record(store.fitted(name))
            # 另一区域里留出过的，要重新留出：同一些组
            again = left_out_by(stored) if stored and outdated(stored, found.region) else None
            train, validation, test = (data.split(name, split) for split in SPLITS)
            lots, _ = to_leave_out(args.leave_out or again, name, train, validation, test)
            if lots:
                memory.check_group(cast("PaDiM", model), name, lots.largest, room.spare)
        if words := cut_off(found.longest, data.preprocessing, room.times):
            remark(name, words)
            found.remarks.append(words)
        if not found.n_test:
            command = f"python predict.py --model {shlex.quote(str(store.fitted(name)))} PICTURES"
            how = f"score others with: {command}" if is_stored else "nothing is stored"
            words = f"no test pictures, nothing is scored; {how}"
            remark(name, words, sys.stdout)
            found.remarks.append(words)
    held.enter_context(store.locked())
    made_from = describe(model) | {"preprocessing": data.preprocessing.record()}
    if args.no_features:
        for name in checked:
            _check_beside(store.fitted(name), name, made_from, data)
    elif not args.refit:
        for name in checked:
            stored_state(store.fitted(name), made_from)
    given = json.loads(json.dumps(vars(args), default=str))  # 与读回的同形，才比得出是否同一条命令
    results = kept_results(store, given, configuration(made_from), data, checked, args.refit)
    results["run"] |= {
        "command": shlex.join(["python", *sys.argv]),
        "versions": made_from["versions"],
        "processes": ranks.size,
        "device": describe_device(model.device),
        "host": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    finished = results["run"]["finished"]
    for name in [n for n in finished if n in checked]:
        row = results["classes"][name]
        if not (has_region := data.has_region(name, row)) or not data.is_unchanged(name, row):
            what = "pictures have" if has_region else "region has"
            print(f"{name}: its {what} changed since it was finished; computing it again")
            finished.remove(name)
    if finished:
        print(f"going on with the interrupted run; finished already: {', '.join(finished)}")
    _check_kept(results, [name for name in checked if name not in finished], store)
    if not store.results.exists():  # 已有的留着，直到第一行新的
        store.write_results(results)
    return results


def _check_kept(results: dict[str, Any], replaced: Collection[str], store: Store) -> None:
    """Read what is kept of other classes, so that the figure of all curves does not fail at the end.

    Raises
    ------
    UserError
        If a file is damaged.
    """
    kept = {*results["classes"]} - {*replaced, *results["run"].get("earlier", ())}
    for name in sorted(kept):
        if store.read_arrays(name) is None and results["classes"][name]["n_test"]:
            print(f"{name}: its arrays are not there; a run with --classes {shlex.quote(name)} makes them again")


def _check_beside(path: Path, name: str, made_from: dict[str, Any], data: DataFolder) -> None:
    """Raise UserError if --no_features would leave another fit's pickle beside this run's scores.

    predict.py and the figures would take both for one.
    """
    remedy = "and --no_features would leave it beside scores that are not its own; move it away, or leave that out"
    if path.exists():
        state = stored_state(path, made_from | {"training_files": data.contents(name)["training_files"]}, remedy)
        if state == "other data":
            raise UserError(f"{str(path)!r} was made from other training pictures; {remedy}")
