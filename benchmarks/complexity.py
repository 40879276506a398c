"""Parameters and multiply-accumulates by formula: the tables and pictures of docs/complexity.md.

    python benchmarks/complexity.py

puts the tables between their marks in the page and draws its two pictures. The formulas
are those of `keras_sepvit.complexity` and, for other networks, of `peers`; one column counts
the products in the graphs of built models, on the backend of `KERAS_BACKEND`. Needs matplotlib.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from page import fill_page, page_parser
from peers import networks
from peers.attention import swin_pair, twins_pair
from peers.networks import REDUCTIONS, WINDOW

from keras_sepvit import complexity
from keras_sepvit.benchmark.machine import machine, sentences
from keras_sepvit.benchmark.report import markdown_table
from keras_sepvit.configs import PUBLISHED, VARIANTS
from keras_sepvit.files import replacing

VARIANT_TITLES = {
    "sepvit_lite": "SepViT-Lite",
    "sepvit_t": "SepViT-T",
    "sepvit_s": "SepViT-S",
    "sepvit_b": "SepViT-B",
}

# What has been published at 224 x 224: M parameters, G MACs (of mmpretrain, those of layers).
PEERS = [
    ("ViT-B/16", networks.vit, "vit_b16", 86.6, 17.56, "torchvision"),
    ("DeiT-S", networks.vit, "deit_s", 22, 4.6, "Swin, table 1"),
    ("PVT-Tiny", networks.pvt, "pvt_tiny", 13.2, 1.9, "PVT"),
    ("PVT-Small", networks.pvt, "pvt_small", 24.5, 3.8, "PVT"),
    ("PVT-Medium", networks.pvt, "pvt_medium", 44.2, 6.7, "PVT"),
    ("PVT-Large", networks.pvt, "pvt_large", 61.4, 9.8, "PVT"),
    ("Swin-T", networks.swin, "swin_t", 28.3, 4.49, "torchvision"),
    ("Swin-S", networks.swin, "swin_s", 49.6, 8.74, "torchvision"),
    ("Swin-B", networks.swin, "swin_b", 87.8, 15.43, "torchvision"),
    ("Twins-SVT-S", networks.twins_svt, "twins_svt_s", 24.06, 2.82, "mmpretrain"),
    ("Twins-SVT-B", networks.twins_svt, "twins_svt_b", 56.07, 8.35, "mmpretrain"),
    ("Twins-SVT-L", networks.twins_svt, "twins_svt_l", 99.27, 14.82, "mmpretrain"),
    ("CvT-13", networks.cvt, "cvt_13", 20, 4.5, "CvT, table 3"),
    ("CvT-21", networks.cvt, "cvt_21", 32, 7.1, "CvT, table 3"),
]

# Networks of the picture of resolutions: their complexity at an image size, and a line.
RESOLUTION = {
    "ViT-B/16": (lambda size: networks.vit("vit_b16", size), {"color": "#999999"}),
    "DeiT-S": (lambda size: networks.vit("deit_s", size), {"color": "black"}),
    "SepViT-T, windows scale": (
        lambda size: complexity.sepvit("sepvit_t", size),
        {"color": "#0072b2", "linewidth": 2.5},
    ),
    "SepViT-T dense, windows of 7 and 14": (
        lambda size: complexity.sepvit("sepvit_t", size, dense=True),
        {"color": "#56b4e9", "linewidth": 2.5},
    ),
    "Swin-T": (lambda size: networks.swin("swin_t", size), {"color": "#d55e00"}),
}
SIZES = (224, 256, 320, 384, 448, 512, 768, 1024, 1536, 2048)


def giga(macs):
    return f"{macs / 1e9:.2f}"


def family_table():
    """SepViT by formula and counted in the graph, and what the paper says."""
    from keras_sepvit import SepViT, SepViTBackbone
    from keras_sepvit.complexity.graph import traced_macs

    rows = []
    for variant, title in VARIANT_TITLES.items():
        cost = complexity.sepvit(variant).cost
        counted = traced_macs(SepViT(variant))
        published = PUBLISHED[variant]
        figures = [published.parameters, published.macs]
        rows.append([title, *_costs(cost), giga(counted), *figures])
    for variant, title in VARIANT_TITLES.items():
        cost = complexity.sepvit(variant, dense=True).cost
        counted = traced_macs(SepViTBackbone.from_variant(variant, dense=True))
        rows.append([f"{title}, dense form", *_costs(cost), giga(counted), "", ""])
    return markdown_table(
        [
            "network",
            "parameters",
            "G MACs, layers",
            "G MACs, with attention",
            "G MACs, in the graph",
            "*paper: M parameters*",
            "*paper: G FLOPs*",
        ],
        rows,
    )


def peers_table():
    """The other networks by formula, and what has been published of them."""
    rows = [
        [title, *_costs(network(variant).cost), parameters, macs, source]
        for title, network, variant, parameters, macs, source in PEERS
    ]
    return markdown_table(
        [
            "network",
            "parameters",
            "G MACs, layers",
            "G MACs, with attention",
            "*published: M parameters*",
            "*published: G FLOPs*",
            "*source*",
        ],
        rows,
    )


def _costs(cost):
    return [f"{cost.parameters:,}", giga(cost.macs), giga(cost.macs_with_attention)]


def block_costs():
    """By stage of SepViT-T at 224 x 224, the costs of its blocks and of pairs of the peers."""
    config = VARIANTS["sepvit_t"]
    stages = complexity.sepvit("sepvit_t").stages
    costs = []
    for number, (heads, windows, reduction) in enumerate(
        zip(config.num_heads, config.window_sizes, REDUCTIONS, strict=True)
    ):
        shape = stages[number].output_shape
        blocks = {
            f"SepViT block, window {window}": complexity.sepvit_block(*shape, window)
            for window in sorted(set(windows))
        }
        blocks["two Swin blocks"] = swin_pair(*shape, WINDOW, heads)
        blocks["two Twins blocks"] = twins_pair(*shape, WINDOW, reduction)
        costs.append(("{} x {} x {}".format(*shape), blocks))
    return costs


def blocks_table():
    """Figure 4 of the paper as a table."""
    rows = []
    for number, (shape, blocks) in enumerate(block_costs(), start=1):
        swin, twins = (blocks[f"two {name} blocks"] for name in ("Swin", "Twins"))
        for name, cost in blocks.items():
            shares = [cost.macs_with_attention / peer.macs_with_attention for peer in (swin, twins)]
            rows.append(
                [
                    number,
                    shape,
                    name,
                    f"{cost.parameters / 1e6:.3f}",
                    f"{cost.macs / 1e6:.1f}",
                    f"{cost.macs_with_attention / 1e6:.1f}",
                    *(f"{share:.2f}" if "SepViT" in name else "" for share in shares),
                ]
            )
    header = ["stage", "map", "blocks", "M parameters", "M MACs, layers", "M MACs, with attention"]
    return markdown_table([*header, "of two Swin's", "of two Twins'"], rows)


def resolution_table():
    """G MACs with attention by image size."""
    rows = [
        [f"{size} x {size}"]
        + [
            f"{network(size).cost.macs_with_attention / 1e9:,.1f}"
            for network, _ in RESOLUTION.values()
        ]
        for size in SIZES
    ]
    return markdown_table(["image", *RESOLUTION], rows)


def draw_blocks(path):
    """Figure 4 of the paper: MACs of the blocks by stage, in layers and in attention's products."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = {
        "SepViT block, window 7": "#0072b2",
        "SepViT block, window 14": "#56b4e9",
        "two Swin blocks": "#d55e00",
        "two Twins blocks": "#009e73",
    }
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axis = figure.subplots()
    ticks = []
    left = 0.0
    for _, blocks in block_costs():
        for place, (name, cost) in enumerate(blocks.items()):
            layers, products = cost.macs / 1e6, cost.attention_macs / 1e6
            axis.bar(left + place, layers, 0.9, color=colors[name])
            axis.bar(
                left + place, products, 0.9, bottom=layers, color=colors[name], alpha=0.45, lw=0
            )
            total = layers + products
            axis.text(left + place, total + 6, f"{total:.0f}", ha="center", fontsize=9)
        ticks.append(left + (len(blocks) - 1) / 2)
        left += len(blocks) + 1
    axis.set_xticks(
        ticks,
        [f"stage {number}\n{shape}" for number, (shape, _) in enumerate(block_costs(), start=1)],
    )
    axis.set_ylabel("M MACs of one image")
    axis.set_title("One SepViT block against two successive blocks of Swin and Twins, 224 x 224")
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    handles.append(Patch(color="#bbbbbb", label="pale: attention's products"))
    axis.legend(handles=handles, ncols=3, loc="upper center", fontsize=9)
    axis.set_ylim(0, 960)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_resolution(path):
    """MACs against the side of the image, at every multiple of 32, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    sizes = range(224, 2048 + 1, 32)
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axis = figure.subplots()
    for name, (network, line) in RESOLUTION.items():
        macs = [network(size).cost.macs_with_attention / 1e9 for size in sizes]
        axis.plot(sizes, macs, label=name, **line)
    ticks = (224, 320, 448, 640, 896, 1280, 2048)
    axis.set(xscale="log", yscale="log", xlabel="side of the image, pixels", ylabel="G MACs")
    axis.set_xticks(ticks, ticks)
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_title("Cost of one image against its size, attention's products included")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main():
    parser = page_parser(__doc__)
    options = parser.parse_args()
    blocks = {
        "family": family_table(),
        "versions": sentences(machine(), ("keras", os.environ["KERAS_BACKEND"])),
        "peers": peers_table(),
        "blocks": blocks_table(),
        "resolution": resolution_table(),
    }
    fill_page(options.docs / "complexity.md", blocks)
    draw_blocks(options.docs / "complexity_blocks.png")
    draw_resolution(options.docs / "complexity_resolution.png")


if __name__ == "__main__":
    main()
