"""predict.py - at a line: from a picture's name to its answer, and pictures a second.

产线上的 predict.py -：从说出图片的名字到得到回答的时间，以及每秒多少张。

python benchmarks/line.py --model bottle.onnx new_pictures/

Names go into a real process by a pipe, and each answer is read before the next name is written; in turn with it this
process decodes the same picture and runs the same model, which is what no program could do without. Then all names go
in at once. Prints one JSON object: medians, their ratio picture by picture, and the quickest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.pictures import NewPictures, find_pictures
from datasets.preprocessing import Preprocessing
from experiment.scoring.onnx_model import ExportedModel


def line(model: Path, pictures: list[Path], rounds: int, options: list[str]) -> dict[str, float]:
    """Seconds from name to answer, of decoding and model alone, their ratio, and pictures a second."""
    alone = ExportedModel(model, "auto")
    files = [found.file for found in find_pictures(pictures)] * rounds
    prepared = NewPictures(files, Preprocessing.from_record(alone.record["preprocessing"]), tuple(alone.record["size"]))
    words = [sys.executable, str(ROOT / "predict.py"), "--model", str(model), "--json", *options, "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        names, answers = process.stdin, process.stdout
        assert names and answers  # 两头都是管道

        def seconds(index: int) -> tuple[float, float, float]:
            start = time.perf_counter()
            names.write(os.fsencode(files[index]) + b"\n")
            names.flush()
            answer = answers.readline()
            answered = time.perf_counter()
            picture = prepared[index][0]
            decoded = time.perf_counter()
            (_, (score,)), *_ = alone.score([picture[None]])
            end = time.perf_counter()
            assert abs(json.loads(answer)["score"] / score - 1) < 1e-4  # 同一张图，同一个回答
            return answered - start, decoded - answered, end - decoded

        each = [seconds(i) for i in range(len(files))][min(3, len(files) - 1) :]  # 前三张是预热
        start = time.perf_counter()
        everything = b"".join(os.fsencode(file) + b"\n" for file in files)
        threading.Thread(target=lambda: (names.write(everything), names.close())).start()
        count = len(answers.readlines())
        together = time.perf_counter() - start
    answer, decoding, scoring = zip(*each, strict=True)
    needed = [decoded + scored for decoded, scored in zip(decoding, scoring, strict=True)]
    return {
        "name to answer": statistics.median(answer),
        "decoding": statistics.median(decoding),
        "model": statistics.median(scoring),
        "ratio": statistics.median(one / other for one, other in zip(answer, needed, strict=True)),
        "name to answer, 95th percentile": statistics.quantiles(answer, n=20)[-1],
        "name to answer, quickest": min(answer),
        "decoding and model, quickest": min(needed),
        "one by one, pictures a second": 1 / statistics.median(answer),
        "all named at once, pictures a second": count / together,
    }


def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE_OR_FOLDER")
    parser.add_argument("--model", type=Path, required=True, help="what export.py wrote")
    parser.add_argument("--rounds", type=int, default=5, help="how often each picture is named (default 5)")
    args, options = parser.parse_known_args()  # 其余的选项给 predict.py
    print(json.dumps(line(args.model, args.pictures, args.rounds, options), indent=1))


if __name__ == "__main__":
    main()
