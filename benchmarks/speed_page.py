"""The tables and pictures of docs/benchmark.md, from speed.py and memory.py.

    python benchmarks/speed_page.py

runs the scripts once for each part of the page, and puts what they print between the
part's marks. `--parts peers` measures only the parts named. With `--page-only`, the page
is made from what earlier runs left in `--output-dir`.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from page import fill_page
from peers.picture import draw_throughput

ROOT = pathlib.Path(__file__).parents[1]

# What each part of the page gives to speed.py.
PEERS = (
    "sepvit_t swin_t convnext_tiny resnet50 hf_swin_t hf_pvt_v2_b2 --backends tensorflow,jax,torch"
)
PARTS = {
    "peers": f"{PEERS} --batch-sizes 1,16 --rounds 5",
    "modes": "sepvit_t hf_swin_t --backends torch --modes eager,export "
    "--precision float32,bfloat16 --batch-sizes 16 --rounds 7",
    "train": "sepvit_t swin_t hf_swin_t --backends tensorflow,jax,torch --task train "
    "--batch-sizes 8 --rounds 5",
    "family": "sepvit_t sepvit_lite sepvit_s sepvit_b mobilenetv2 efficientnetv2_b0 resnet50 "
    "deit_s swin_s swin_b convnext_tiny --backends torch --batch-sizes 16 --rounds 3",
}

# What they give to memory.py.
MEMORY = {"peers": PEERS}


def run(script, arguments):
    """What a script prints."""
    print(f"python benchmarks/{script} {arguments}", flush=True)
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments.split()]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise SystemExit(f"{script} failed; see above. The page stays as it was.")
    return process.stdout


def measure(part, folder):
    """Runs a part's scripts, which leave results in a folder."""
    run("speed.py", f"{PARTS[part]} --output-dir {folder}")
    if part in MEMORY:
        (folder / "memory.md").write_text(run("memory.py", MEMORY[part]))


def write_page(part, folder, docs):
    """Puts a part's tables between its marks, and its picture beside the page."""
    picture = f"benchmark_{part}.png"
    tables = (folder / "results.md").read_text()
    if part in MEMORY:
        command = f"Command: `python benchmarks/memory.py {MEMORY[part]}`"
        tables += f"\n### Peak memory\n\n{command}\n\n{(folder / 'memory.md').read_text()}"
    fill_page(docs / "benchmark.md", {part: f"{tables}\n![images/s]({picture})"})
    draw_throughput(docs / picture, json.loads((folder / "results.json").read_text()))


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
