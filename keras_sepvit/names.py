"""What the path of a weight says: the part of the network that it belongs to.

`stage3_block2/attn/dsa_qkv/kernel` is a weight of the second block of stage 3. What is no
weight of the backbone belongs to a head.
"""

import dataclasses
import re

# The layers of the backbone by part.
LAYERS = {
    "embed": "stage{stage}_embed",
    "block": "stage{stage}_block{block}",
    "peg": "stage{stage}_peg",
    "stage_norm": "stage{stage}_norm",
    "norm": "norm",
}
_PATTERNS = {
    part: re.compile(re.sub(r"{(\w+)}", r"(?P<\1>\\d+)", layer)) for part, layer in LAYERS.items()
}

# Necks and heads of task models. Their weights have the names of mmsegmentation and mmdetection,
# by a rule: `decode_head/scale_heads_2_0/bn/gamma` is `decode_head.scale_heads.2.0.bn.weight`.
TASK_PARTS = ("neck", "decode_head", "auxiliary_head", "rpn_head", "bbox_head", "mask_head")

# In files of Keras: (rows, columns) of a block's windows, beside the tokens of the windows.
WINDOW_GRID = "window_grid"

# The same of a detector, in the place of its own variables: the `anchor_scale` of its boxes.
ANCHOR_SCALE = "anchor_scale"
_OF_ANCHORS = ("rpn_head/", "bbox_head/")

# The weights of PSA, which a block on a single window does not have.
_PSA = ("win_tokens", "attn/win_tokens_norm/", "attn/psa_qk/")


@dataclasses.dataclass(frozen=True)
class WeightName:
    """A weight's path, taken apart.

    Attributes:
        part: A key of `LAYERS`, or `"head"`.
        stage: Number of the stage, from 1; None of the final norm and of heads.
        block: Number of the block in its stage, from 1; None outside of blocks.
        inner: The path inside the layer, such as `"attn/dsa_qkv/kernel"`; of heads all of it.
    """

    part: str
    stage: int | None
    block: int | None
    inner: str

    @property
    def is_head(self):
        return self.part == "head"

    @property
    def is_task_part(self):
        """Whether it is of the neck or a head of a task model."""
        return self.is_head and self.inner.partition("/")[0] in TASK_PARTS

    @property
    def is_of_anchors(self):
        """Whether it is of a head whose boxes start from anchors."""
        return self.is_head and self.inner.startswith(_OF_ANCHORS)

    @property
    def is_window_token(self):
        return self.part == "block" and self.inner == "win_tokens"

    @property
    def is_psa(self):
        return self.part == "block" and self.inner.startswith(_PSA)

    @property
    def layer(self):
        """Name of the layer of the backbone, such as `"stage3_block2"`."""
        return LAYERS[self.part].format(stage=self.stage, block=self.block)

    @property
    def path(self):
        return self.inner if self.is_head else f"{self.layer}/{self.inner}"


def parse(path):
    """The `WeightName` of a path."""
    layer, _, inner = path.partition("/")
    for part, pattern in _PATTERNS.items():
        match = pattern.fullmatch(layer)
        if match and inner:
            numbers = {name: int(number) for name, number in match.groupdict().items()}
            return WeightName(part, numbers.get("stage"), numbers.get("block"), inner)
    return WeightName("head", None, None, path)


def stage_of(layer):
    """Number of the stage, from 1, that a layer of the backbone belongs to; None of others."""
    return parse(f"{layer}/weight").stage


def distances(paths):
    """How many layers lie between each weight and the head.

    Blocks count as layers; a stage's patch embedding belongs to its first block, its PEG to the
    block before it, its norm to its last block, and the first patch embedding is a layer by itself.
    The final norm, necks and heads have 0.

    Args:
        paths: The paths of all weights of a model.

    Returns:
        Dict of path to distance.
    """
    names = {path: parse(path) for path in paths}
    blocks = sorted({(n.stage, n.block) for n in names.values() if n.part == "block"})

    last = dict(blocks)

    def distance(name):
        if name.stage is None:
            return 0
        first = name.part == "embed" and name.stage == 1
        block = last[name.stage] if name.part == "stage_norm" else name.block or 1
        return len(blocks) + first - blocks.index((name.stage, block))

    return {path: distance(name) for path, name in names.items()}


def variables(layer):
    """Names of the variables of a layer of the backbone, in the order that Keras saves them.

    Args:
        layer: Its path, such as `"stage3_block2/attn/dsa_qkv"`.
    """
    last = layer.rpartition("/")[2]
    if last == "attn":
        return ("win_kernel", "win_bias")
    if last.endswith(("norm", "norm1", "norm2")):
        return ("gamma", "beta")
    if _PATTERNS["block"].fullmatch(layer):
        return ("win_tokens",)
    return ("kernel", "bias")
