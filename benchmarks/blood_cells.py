"""Detectors on real photos, of blood cells: from random weights, from a Swin's, and KerasHub's.

    python benchmarks/blood_cells.py --data bccd --warm-start swin.keras

trains each arm in a process of its own and measures it on the split `test`: `random` is this
package's RetinaNet on SepViT-Lite; `warm` is the same, started from the Swin of equal widths in
`--warm-start`, for as many epochs; `keras_hub` is KerasHub's RetinaNet on its ResNet-18, from
random weights, for as many seconds of CPU time as `random` took. That one takes about `--minutes`
of CPU time. `--data` is a folder in COCO's form with `train`, `valid` and `test`, such as BCCD
(github.com/Shenggan/BCCD_Dataset, 364 photos).

The results of each arm stay in `--output-dir`: an arm that is there is not trained again, and one
that was stopped begins anew. The table and the worst photos go into docs/detection.md; with
`--page-only` they are made of what is there. Needs the extras `train`, `detection` and `hub`.
"""

import io
import json
import pathlib

from page import ROOT, commit, fill_page, page_parser
from PIL import Image

from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.benchmark.run import BackendError, run_worker
from keras_sepvit.files import replacing

ARMS = {
    "random": "RetinaNet, SepViT-Lite, random weights",
    "warm": "RetinaNet, SepViT-Lite, warm start",
    "keras_hub": "RetinaNet, ResNet-18 (KerasHub), random weights",
}
# What an arm has as much of as `random`.
LENGTHS = {"warm": "epochs", "keras_hub": "seconds"}
# What a folder of results is of.
CONDITIONS = ("backend", "threads", "minutes")
PACKAGES = "keras-sepvit keras keras-hub tensorflow jax torch".split()
PICTURE = "blood_cells_worst.jpg"
LARGEST_PICTURE = 500_000  # bytes


def result_of(arm, folder):
    """The record of an arm in a folder; None where it has not been trained."""
    file = folder / f"{arm}.json"
    return json.loads(file.read_text()) if file.exists() else None


def train(arm, options):
    """Trains and measures an arm, and leaves its record in the folder of results."""
    folder = options.output_dir
    conditions = {name: getattr(options, name) for name in CONDITIONS}
    job = {**conditions, "arm": arm, "data": str(options.data), "folder": str(folder / arm)}
    if arm in LENGTHS:
        random = result_of("random", folder)
        if random is None:
            raise SystemExit(f"'{arm}' is as long as 'random', which {folder} lacks.")
        job[LENGTHS[arm]] = random[LENGTHS[arm]]
    if arm == "warm":
        job["warm_start"] = str(options.warm_start)
    facts = {"commit": commit(), "machine": machine(), **conditions}
    try:
        record = {**facts, **run_worker("blood_cells_arm", job)}
    except BackendError as error:
        raise SystemExit(f"'{arm}' failed: {error}") from error
    with replacing(folder / f"{arm}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2))


def table(records):
    """Markdown of the records by arm."""
    classes = [*next(iter(records.values()))["classes"]]
    header = ["detector", "M parameters", "epochs", "steps", "CPU minutes", "AP %", "AP50 %"]
    rows = [
        [
            ARMS[arm],
            f"{record['parameters'] / 1e6:.1f}",
            record["epochs"],
            record["steps"],
            f"{record['seconds'] / 60:.1f}",
            *map(_percent, (record["ap"], record["ap50"], *record["classes"].values())),
        ]
        for arm, record in records.items()
    ]
    return markdown_table([*header, *(f"AP, {name}" for name in classes)], rows)


def _percent(value):
    return "-" if value is None else f"{value:.1f}"


def section(records, shown):
    """What stands between the page's marks, with the worst photos of the arm `shown`."""
    first = next(iter(records.values()))
    words = ["python benchmarks/blood_cells.py --data bccd"]
    words += ["--warm-start swin.keras"] if "warm" in records else []
    words += [f"--arms {' '.join(records)}"] if len(records) < len(ARMS) else []
    words += [f"--{name} {first[name]}" for name in CONDITIONS]
    commits = ", ".join(dict.fromkeys(record["commit"] for record in records.values()))
    return "\n\n".join(
        (
            f"Commit {commits}. Command: `{' '.join(words)}`",
            table(records),
            sentences(first["machine"], PACKAGES),
            f'The worst photos of the test split, true boxes beside those that "{ARMS[shown]}" '
            "finds above 0.3:",
            f"![worst photos]({PICTURE})",
        )
    )


def write_page(folder, docs):
    """Puts the table of all arms in a folder of results, and the worst photos, into docs/."""
    records = {arm: result_of(arm, folder) for arm in ARMS}
    records = {arm: record for arm, record in records.items() if record}
    own = [arm for arm in records if arm != "keras_hub"]
    if not own:
        raise SystemExit(f"{folder} has no results of 'random' or 'warm': train one of them first.")
    shown = max(own, key=lambda arm: records[arm]["ap"] or 0)
    fill_page(docs / "detection.md", {"blood cells": section(records, shown)})
    (docs / PICTURE).write_bytes(small_jpeg(folder / shown / "worst.png", LARGEST_PICTURE))


def small_jpeg(path, most):
    """A picture as JPEG of the best quality, by tens, that needs no more than so many bytes."""
    with Image.open(path) as picture:
        for quality in range(90, 0, -10):
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= most:
                break
    return buffer.getvalue()


def check(options):
    """Refuses options that cannot be right, before anything is trained."""
    if options.data is None or not options.data.is_dir():
        raise SystemExit(f"--data must be the folder of the photos. Received: {options.data}.")
    if "warm" in options.arms and (options.warm_start is None or not options.warm_start.is_file()):
        raise SystemExit(
            "The arm 'warm' needs --warm-start FILE.keras, a Swin of SepViT-Lite's widths. "
            f"Received: {options.warm_start}. Or leave it out: --arms random keras_hub."
        )
    for arm in ARMS:
        record = result_of(arm, options.output_dir) or {}
        for name in CONDITIONS:
            own, known = getattr(options, name), record.get(name)
            if known not in (None, own):
                raise SystemExit(
                    f"{options.output_dir} has '{arm}' with --{name} {known}. Received: {own}. "
                    "Name another --output-dir."
                )


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--warm-start", type=pathlib.Path, metavar="FILE.keras")
    parser.add_argument("--minutes", type=float, default=25.0, help="of CPU time of 'random'")
    parser.add_argument("--threads", type=int, default=1, help="cores that an arm uses")
    parser.add_argument("--backend", default="tensorflow", help="or jax or torch")
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    parser.add_argument("--no-page", action="store_true", help="leave docs/ as it is")
    parser.add_argument("--output-dir", type=pathlib.Path, default=ROOT / "outputs/blood_cells")
    options = parser.parse_args()
    if not options.page_only:
        check(options)
        for arm in (arm for arm in ARMS if arm in options.arms):  # 'random' first
            if result_of(arm, options.output_dir):
                print(f"{options.output_dir} has '{arm}' already.")
            else:
                train(arm, options)
    if not options.no_page:
        write_page(options.output_dir, options.docs)


if __name__ == "__main__":
    main()
