"""Parameters and multiply-accumulates (MACs) by closed formulas: shapes in, costs out.

For SepViT (arXiv 2203.15380), its blocks, kinds of attention, segmenters and
detectors. MACs are those of one
image, in two conventions:

- `macs`: layers with weights only (convolutions and dense layers), which is
  what profilers count that hook into modules;
- `macs_with_attention`: the same plus both matrix products of each attention,
  queries by keys and weights by values. These are the figures of the paper's
  table 2, whose column is headed FLOPs: for SepViT-Lite, T, S and B at 224 x 224
  the formulas give 0.57, 4.52, 7.46 and 13.05 billion, the paper 0.6, 4.5, 7.5
  and 13.1; without the products they would be 0.49, 4.27, 7.06 and 12.52.

Neither counts norms, biases, activations, softmax, pooling or additions, and
one MAC is one multiplication with its addition. Padding counts where a layer
computes on it.

`keras_sepvit.complexity.graph` counts the products in the graph of a built model
instead. Nothing here imports Keras, except to count in a graph.
"""

from keras_sepvit.complexity.attention import dsa, gsa, psa
from keras_sepvit.complexity.blocks import sepvit_block, transformer_block
from keras_sepvit.complexity.costs import (
    Complexity,
    Cost,
    Stage,
    convolution,
    layer_norm,
    linear,
    mlp,
    patch_embedding,
)
from keras_sepvit.complexity.detection import mask_rcnn, retinanet
from keras_sepvit.complexity.models import sepvit
from keras_sepvit.complexity.segmentation import semantic_fpn, upernet

__all__ = [
    "Complexity",
    "Cost",
    "Stage",
    "convolution",
    "dsa",
    "gsa",
    "layer_norm",
    "linear",
    "mask_rcnn",
    "mlp",
    "patch_embedding",
    "psa",
    "retinanet",
    "semantic_fpn",
    "sepvit",
    "sepvit_block",
    "transformer_block",
    "upernet",
]
