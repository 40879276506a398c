"""The tables and pictures of docs/benchmark.md, from `keras-sepvit benchmark`.

    python benchmarks/speed.py

runs the command line once for each part of the page, and puts what it prints between the
part's marks. `--parts peers` measures only the parts named. With `--page-only`, the page
is made from what earlier runs left in `--output-dir`.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

from page import fill_page

ROOT = pathlib.Path(__file__).parents[1]

# What each part of the page runs, after `keras-sepvit benchmark`.
ALL = "--backends tensorflow,jax,torch"
PARTS = {
    "peers": f"sepvit_t swin_t convnext_tiny resnet50 hf_swin_t hf_pvt_v2_b2 {ALL} "
    "--batch-sizes 1,16 --rounds 5",
    "modes": "sepvit_t hf_swin_t --backends torch --modes eager,export "
    "--precision float32,bfloat16 --batch-sizes 16 --rounds 7 --no-memory",
    "train": f"sepvit_t swin_t hf_swin_t {ALL} --task train --batch-sizes 8 --rounds 5 --no-memory",
    "family": "sepvit_t sepvit_lite sepvit_s sepvit_b mobilenetv2 efficientnetv2_b0 resnet50 "
    "deit_s swin_s swin_b convnext_tiny --backends torch --batch-sizes 16 --rounds 3 --no-memory",
}


def measure(part, folder):
    """Runs a part's command."""
    print(f"keras-sepvit benchmark {PARTS[part]}", flush=True)
    command = [sys.executable, "-m", "keras_sepvit.cli", "benchmark", *PARTS[part].split()]
    process = subprocess.run([*command, "--output-dir", str(folder)], stdout=subprocess.DEVNULL)
    if process.returncode:
        raise SystemExit(f"The part '{part}' failed; see above. The page stays as it was.")


def write_page(part, folder, docs):
    """Puts a part's tables between its marks, and its picture beside the page."""
    picture = f"benchmark_{part}.png"
    tables = (folder / "results.md").read_text()
    fill_page(docs / "benchmark.md", {part: f"{tables}\n![images/s]({picture})"})
    shutil.copyfile(folder / "throughput.png", docs / picture)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    parser.add_argument("--output-dir", type=pathlib.Path, default=ROOT / "outputs" / "speed")
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs")
    options = parser.parse_args()
    for part in options.parts:
        folder = options.output_dir / part
        if not options.page_only:
            measure(part, folder)
        write_page(part, folder, options.docs)


if __name__ == "__main__":
    main()
