"""Rewrites the tables and pictures of the pages and of README, all at one commit.

    python benchmarks/figures.py

runs, one after the other, the commands that write a table each: on two quiet cores about the
minutes that `--list` shows. What is done is noted in `outputs/figures/COMMIT`: after an
interruption the same command goes on with the next table. The code must be as committed; the
pages may be changed, by the tables that are there already. `--only benchmark-peers` writes the
tables named. Needs what `make venv` installs. The trainer's table in docs/training.md, those of
docs/detectors.md, docs/detection.md and docs/learning.md (networks are trained, three quarters of
an hour and more) and docs/gpu.md (a GPU) have commands of their own.
"""

import argparse
import subprocess
import sys
import time

from page import ROOT, commit

# By name: the script with its options, and the minutes that it takes.
FIGURES = {
    "complexity": ("complexity.py", 2),
    "benchmark-peers": ("speed_page.py --parts peers", 20),
    "benchmark-compiled": ("speed_page.py --parts compiled", 9),
    "benchmark-precisions": ("speed_page.py --parts precisions", 1),
    "benchmark-train": ("speed_page.py --parts train", 4),
    "benchmark-family": ("speed_page.py --parts family", 5),
    "benchmark-ablations": ("speed_page.py --parts ablations", 8),
    "benchmark-segmenters": ("speed_page.py --parts segmenters", 5),
    "benchmark-segmenters-train": ("speed_page.py --parts segmenters-train", 5),
    "benchmark-detectors-train": ("speed_page.py --parts detectors-train", 4),
    "benchmark-mask-rcnn-train": ("speed_page.py --parts mask-rcnn-train", 4),
    "training-pipeline": ("input_pipeline.py --page", 1),
    "export-digits": ("export.py --tables digits", 2),
    "export-speed": ("export.py --tables speed", 5),
    "export-peers": ("export.py --tables peers", 2),
    "export-detectors": ("export.py --tables detectors", 4),
    "export-family": ("export.py --tables family", 4),
}


def write_figures(names, folder, run=subprocess.run):
    """Runs the commands of figures that a folder does not have marked as done."""
    for name in names:
        done = folder / f"{name}.done"
        if done.exists():
            continue
        script, *options = FIGURES[name][0].split()
        if script in ("speed_page.py", "export.py"):  # which keep what they measured
            options += ["--output-dir", str(folder / script.removesuffix(".py"))]
        print(f"{name}: {script} {' '.join(options)}", flush=True)
        start = time.monotonic()
        command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
        if run(command, cwd=ROOT).returncode:
            raise SystemExit(f"{name} failed, see above. What was done before stays done.")
        done.write_text(f"{(time.monotonic() - start) / 60:.1f} minutes\n")
        print(f"{name}: {done.read_text()}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--list", action="store_true", help="show the commands, and run none")
    options = parser.parse_args()
    if options.list:
        for name, (command, minutes) in FIGURES.items():
            print(f"{name:22}{minutes:3} min  python benchmarks/{command}")
        return
    at = commit()
    if " " in at:
        raise SystemExit("The code is not as committed: commit it, so that all tables are of it.")
    folder = ROOT / "outputs" / "figures" / at
    folder.mkdir(parents=True, exist_ok=True)
    write_figures(options.only, folder)


if __name__ == "__main__":
    main()
