"""The tables and pictures of docs/benchmark.md and README's, from speed.py and memory.py.

    python benchmarks/speed_page.py

runs the scripts once for each part of the page, and puts what they print between the
part's marks. `--parts peers` measures only the parts named. With `--page-only`, the page
is made from what earlier runs left in `--output-dir`.
"""

import json
import pathlib
import subprocess
import sys

from page import ROOT, commit, fill_page, page_parser
from peers.catalogue import CATALOGUE
from peers.picture import draw_accuracy, draw_throughput

from keras_sepvit.benchmark.machine import sentences
from keras_sepvit.benchmark.report import markdown_table, spread

# What each part of the page gives to speed.py.
PEERS = "sepvit_t swin_t resnet50 hf_swin_t hf_pvt_v2_b2 --backends tensorflow,jax,torch"
SEGMENTERS = "semantic_fpn_t upernet_t hf_upernet_swin_t segformer_b2 deeplab_v3_plus "
SEGMENTERS += "--image-size 512 --backends torch"
DETECTORS = "retinanet_t retinanet_resnet50 --backends torch --image-size"
ABLATIONS = "sepvit_t sepvit_t_no_gsa sepvit_t_zero_window_tokens sepvit_t_average_pooling "
ABLATIONS += "sepvit_t_depthwise_conv sepvit_t_non_overlapping --backends tensorflow,jax,torch"
STAGES = "mask_rcnn_t retinanet_t --backends torch --image-size 800x1344 --task train"
PARTS = {
    "peers": f"{PEERS} --batch-sizes 1,4,16 --rounds 3 --processes 3",
    "compiled": "sepvit_t hf_swin_t --backends torch --modes eager,compile --batch-sizes 16 "
    "--rounds 3 --processes 3",
    "precisions": "sepvit_t hf_swin_t --backends torch --precision float32,bfloat16 "
    "--batch-sizes 8 --rounds 5 --processes 3",
    "train": "sepvit_t swin_t hf_swin_t --backends tensorflow,jax,torch --task train "
    "--batch-sizes 4 --rounds 3 --processes 2",
    "family": "sepvit_t sepvit_lite sepvit_s sepvit_b mobilenetv2 efficientnetv2_b0 resnet50 "
    "deit_s swin_t swin_s swin_b convnext_tiny --backends torch --batch-sizes 1,8 --rounds 3 "
    "--processes 2",
    "ablations": f"{ABLATIONS} --batch-sizes 8 --rounds 3 --processes 2",
    "segmenters": f"{SEGMENTERS} --batch-sizes 1 --rounds 3",
    "segmenters-train": f"{SEGMENTERS} --task train --batch-sizes 2 --rounds 2",
    "detectors-train": f"{DETECTORS} 800x1344 --task train --batch-sizes 1 --rounds 2",
    "mask-rcnn-train": f"{STAGES} --batch-sizes 1 --rounds 2",
}

# Whose versions README tells.
PACKAGES = "keras tensorflow jax torch keras-hub transformers".split()

# What they give to memory.py.
MEMORY = {
    "peers": f"{PEERS} --batch-size 16",
    "segmenters": f"{SEGMENTERS} --batch-size 1",
    "segmenters-train": f"{SEGMENTERS} --task train --batch-size 2",
    "detectors-train": f"{DETECTORS} 800x1344 --task train --batch-size 1",
    "mask-rcnn-train": f"{STAGES} --batch-size 1",
}


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
    (folder / "commit").write_text(commit())


def readme_table(record):
    """README's: networks at each batch size; the share of products' rate at the largest."""
    titles = {name: CATALOGUE[name].title for name in record["settings"]["models"]}
    header, cells, shares = ["backend", "model"], {}, {}
    for size in record["settings"]["batch_sizes"]:
        header += [f"images/s, batch {size}", f"{next(iter(titles.values()))} is faster by"]
    for row in record["rows"]:
        network = (row["backend"], titles[row["model"]])
        speed = f"{row['images_per_second']:.1f}" if "ms" in row else "failed"
        cells.setdefault(network, []).extend([speed, spread(row.get("first_is_faster"))])
        shares[network] = f"{row['share']:.0%}" if "share" in row else ""
    rows = [[*network, *cells[network], shares[network]] for network in cells]
    return markdown_table([*header, "share of products' rate"], rows)


def write_page(part, folder, docs):
    """Puts a part's tables between its marks, and its picture beside the page."""
    picture = f"benchmark_{part}.png"
    made = f"Commit {(folder / 'commit').read_text()}."
    tables = f"{made} {(folder / 'results.md').read_text()}"
    if part in MEMORY:
        command = f"Command: `python benchmarks/memory.py {MEMORY[part]}`"
        tables += f"\n### Peak memory\n\n{command}\n\n{(folder / 'memory.md').read_text()}"
    tables += f"\n![images/s]({picture})"
    record = json.loads((folder / "results.json").read_text())
    draw_throughput(docs / picture, record)
    if part == "family":
        draw_accuracy(docs / "benchmark_accuracy.png", record)
        tables += "\n\n![accuracy as published against latency](benchmark_accuracy.png)"
    fill_page(docs / "benchmark.md", {part: tables})
    if part == "peers":
        text = f"{readme_table(record)}\n\n{made} {sentences(record['machine'], PACKAGES)}"
        fill_page(docs.parent / "README.md", {part: text})


def main():
    parser = page_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    parser.add_argument("--output-dir", type=pathlib.Path, default=ROOT / "outputs" / "speed")
    options = parser.parse_args()
    for part in options.parts:
        folder = options.output_dir / part
        if not options.page_only:
            measure(part, folder)
        write_page(part, folder, options.docs)


if __name__ == "__main__":
    main()
