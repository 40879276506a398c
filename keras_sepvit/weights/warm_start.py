"""Starts a SepViT from the weights of a Swin Transformer of equal widths."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sepvit.geometry import STRIDES
from keras_sepvit.names import parse, stage_of
from keras_sepvit.validation import counted
from keras_sepvit.weights.load import variables_by_path
from keras_sepvit.weights.matching import WeightsSummary, window_layers
from keras_sepvit.weights.swin import check_swin_file, open_swin

PARTS = ("embed", "attention", "mlp", "norms", "head")

# DSA adds its input to what attention makes of the values (paper, equation 4), which Swin's
# attention does not. Values times this, and a projection divided by it, leave Swin's part as it is
# and weaken what is added.
VALUE_SCALE = 4.0

# Of `SepViTBlock`, by part.
_IN_BLOCKS = {"attention": "attn/", "mlp": "mlp/", "norms": "norm"}

_EMBED_EPSILON = 1e-5
_STAGE_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class WarmStartReport:
    """What became of each weight of a model that has been started from a Swin.

    Attributes:
        source: The Swin's name, file or preset.
        taken: Paths of the variables that have weights of the Swin.
        fitted: Paths of norms behind patch embeddings that were computed: fitted on pictures or,
            without any, estimated.
        new: Paths of the variables that nothing of the Swin went into. They kept their values, but
            for PEGs (see `warm_start`).
        blocks: For each stage, which of the Swin's blocks its blocks are, from 1.
        pictures: Number of pictures that norms were fitted on.
        share: Share of the model's numbers that are the Swin's, 0 to 1; the zeros that fill up
            kernels do not count.
    """

    source: str
    taken: tuple[str, ...]
    fitted: tuple[str, ...]
    new: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]
    pictures: int
    share: float

    def __str__(self) -> str:
        count = len(self.taken) + len(self.fitted) + len(self.new)
        how = f"fitted on {counted(self.pictures, 'picture')}" if self.pictures else "estimated"
        stages = "; ".join(", ".join(map(str, blocks)) for blocks in self.blocks)
        lines = [
            f"Started from '{self.source}': {len(self.taken)} of {count} weights taken "
            f"({100 * self.share:.1f} % of the numbers), {len(self.fitted)} of norms {how}, "
            f"{len(self.new)} new. The model is not trained by that.",
        ]
        if any(parse(path).part == "block" for path in self.taken):
            lines.append(f"Blocks taken, by stage: {stages}.")
        if self.new:
            kinds = collections.Counter(map(_kind, self.new))
            lines.append(f"New: {', '.join(f'{kind} ({n})' for kind, n in kinds.items())}.")
        return "\n".join(lines)


def _kind(path):
    name = parse(path)
    if name.is_psa:
        return "attention among windows"
    kinds = {"peg": "PEGs", "stage_norm": "norms of stages", "head": "heads"}
    return kinds.get(name.part, "parts not asked for")


def warm_start(
    model: keras.Model,
    source: keras.Model | str | os.PathLike[str],
    parts: Sequence[str] = ("embed", "attention", "mlp", "norms"),
    images: Any = None,
) -> WarmStartReport:
    """Starts a SepViT from the weights of a Swin Transformer (arXiv 2103.14030) to train it.

    It is *not* function-preserving: the model that it makes does not compute what the Swin does,
    is not a trained SepViT, and has to be trained. What goes where:

    - `"embed"`: the 4x4 patch embedding goes into the last 4x4 taps of the 7x7 kernel, with its
      norm: exact. Patch merging goes into the last 2x2 taps of the 3x3 kernels. Its norm stands in
      front, SepViT's behind: the map is that of the Swin up to a factor at each position, and,
      where the Swin's norm has a beta, up to a constant, which the new norm's beta adds.
    - `"attention"`: queries, keys, values and projection. DSA adds its input to the values, which
      are scaled by `VALUE_SCALE` so that it counts for less. PEGs are set to zero, with which maps
      go through them unchanged: their random values would outweigh the map. They learn from there.
    - `"mlp"`, and `"norms"`: the MLPs; both norms of blocks, and the final norm, in the dense form
      that of the last stage.
    - `"head"`: the classifier of as many classes. It is not among the default parts.

    Swin's relative positions and shifts are lost. PSA, window tokens and, in the dense form, the
    norms of the first three stages are new, as are necks and heads.

    Where a stage of the Swin has other than the model's number of blocks, they are taken from it
    evenly, the first and the last one among them. A stage of one block takes the first, which reads
    what the patch embedding makes, and whose windows are not shifted.

    Args:
        model: A SepViT classifier, `SepViTBackbone`, segmenter or detector.
        source: A Keras model with a Swin of KerasHub's layers in it; the path of a `.keras` file of
            such a model; or the name of a KerasHub preset, such as
            `"swin_tiny_patch4_window7_224"`, which is downloaded. What its image converter, or
            `Normalization` and `Rescaling` layers in front of it, do otherwise than SepViT's
            normalisation goes into the first kernel and bias. A Swin with none of them is taken for
            one of images normalised with ImageNet's statistics, as KerasHub's converters do it.
        parts: Of `PARTS`.
        images: uint8 or float array (batch, height, width, 3) of 0..255, RGB: pictures of the
            data to train on, a few dozens. On them the norms behind patch merging (and behind a
            patch embedding whose Swin has no norm there) are fitted by least squares, channel by
            channel, so that SepViT's layer makes of the Swin's map what the Swin makes of it.
            They are resized to the Swin's image size. None for a guess: a gamma as if the numbers
            of a normalised patch were independent, and the exact beta.

    Returns:
        A `WarmStartReport`.

    Raises:
        ValueError: if the Swin has other widths, heads, MLPs, patches or number of stages than the
            model, for parts that there are not, and for arguments of other kinds. Nothing is
            assigned then.
        FileNotFoundError: if there is no such file.
        ImportError: if KerasHub is needed and not installed.
    """
    parts = _checked_parts(parts)
    images = None if images is None else _checked_images(images)
    variables = variables_by_path(model)
    summary = WeightsSummary.of(variables)
    if summary is None:
        raise ValueError(f"`model` must be a SepViT model. Received: `{model.name}`.")
    swin = open_swin(source, with_head="head" in parts)
    _check_architecture(model, variables, summary, swin)

    chosen = [_spread(*depths) for depths in zip(summary.depths, swin.depths, strict=True)]
    taken, fitted = {}, {}
    if "embed" in parts:
        taken, fitted = _embeddings(variables, swin, images, summary.dense)
    taken.update(_blocks(swin, chosen, parts))
    if "norms" in parts:
        taken.update(_final_norm(swin, summary))
    if "head" in parts:
        taken.update(_head(model, variables, swin))
    values = {**taken, **fitted}
    _check_shapes(model, variables, values)

    new = [path for path in variables if path not in values]
    if "attention" in parts:
        pegs = [path for path in new if parse(path).part == "peg"]
        values.update({path: np.zeros(variables[path].shape) for path in pegs})
    for path, value in values.items():
        variables[path].assign(np.array(value, "float32"))
    return WarmStartReport(
        source=swin.name,
        taken=tuple(taken),
        fitted=tuple(fitted),
        new=tuple(new),
        blocks=tuple(tuple(block + 1 for block in blocks) for blocks in chosen),
        pictures=len(images) if fitted and images is not None else 0,
        share=float(sum(map(np.count_nonzero, taken.values())) / model.count_params()),
    )


def start_network(network, source, sample):
    """What a recipe's `model.warm_start` does to a new run's network.

    Args:
        network: The network.
        source: The recipe's value; None for none.
        sample: Function that gives `images`.

    Returns:
        The report as text, empty where there is nothing to start from.

    Raises:
        ValueError: for the reasons of `warm_start`, naming the key.
    """
    if source is None:
        return ""
    with _naming_the_key(source):
        return str(warm_start(network, source, images=sample()))


def check_start(source):
    """Refuses a recipe's `model.warm_start`, as far as can be told without a network.

    Raises:
        ValueError: if it is the path of a file that is not there or no `.keras` file.
    """
    with _naming_the_key(source):
        check_swin_file(source)


@contextlib.contextmanager
def _naming_the_key(source):
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"model.warm_start={source}: {error}") from error


def _checked_parts(parts):
    try:
        chosen = (parts,) if isinstance(parts, str) else tuple(parts)
    except TypeError:
        chosen = ()
    if not chosen or any(part not in PARTS for part in chosen):
        raise ValueError(
            f"`parts` must be some of {', '.join(map(repr, PARTS))}. Received: parts={parts!r}."
        )
    return chosen


def _checked_images(images):
    expected = "`images` must be an array (batch, height, width, 3) of 0..255, or None."
    try:
        images = np.asarray(images, "float32")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected} Received: {type(images).__name__}, {error}") from error
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"{expected} Received an array of shape {images.shape}.")
    low, high = images.min(), images.max()
    if not (0 <= low and 1 < high <= 255):  # also where there are NaNs
        raise ValueError(f"{expected} Received values from {low:g} to {high:g}.")
    return images


def _check_architecture(model, variables, summary, swin):
    """Refuses a Swin of other sizes than a model's."""
    heads = {stage_of(layer.name): layer.num_heads for layer in window_layers(model)}
    stages = range(1, len(summary.hidden_dims) + 1)
    mlps = [variables[f"stage{stage}_block1/mlp/fc1/bias"] for stage in stages]
    for what, there, here in (
        ("widths", swin.hidden_dims, summary.hidden_dims),
        ("attention heads", swin.num_heads, tuple(heads[stage] for stage in stages)),
        ("hidden widths of MLPs", swin.mlp_dims, tuple(bias.shape[0] for bias in mlps)),
        ("image channels", swin.channels, variables["stage1_embed/proj/kernel"].shape[2]),
        ("a patch side", swin.patch_size, STRIDES[0]),
    ):
        if there != here:
            raise ValueError(
                f"`source` does not fit model `{model.name}`: '{swin.name}' has {what} of {there}, "
                f"the model of {here}. Swin-T goes with SepViT-T, Swin-S with S, Swin-B with B; of "
                "the widths of others no Swin is published, and it takes one of your own."
            )


def _check_shapes(model, variables, values):
    """Refuses values for which a model has no variable of their shape, such as of other layers."""
    for path, value in values.items():
        variable = variables.get(path)
        found = None if variable is None else (tuple(variable.shape), variable.dtype)
        if found is None or found[0] != value.shape or "float" not in found[1]:
            raise ValueError(
                f"Model `{model.name}` needs a float weight '{path}' of shape {value.shape}. "
                f"Received: {found}. Start it before it is quantised or gets adapters."
            )


def _spread(count, total):
    """`count` of the numbers 0 to `total - 1`, evenly, with both ends; the first, if one."""
    steps = max(count - 1, 1)
    return tuple((2 * index * (total - 1) + steps) // (2 * steps) for index in range(count))


def _blocks(swin, chosen, parts):
    """Values of the blocks by path: in each stage of those of the Swin's that are `chosen`."""
    prefixes = tuple(prefix for part, prefix in _IN_BLOCKS.items() if part in parts)
    values = {}
    for stage, blocks in enumerate(chosen):
        for number, block in enumerate(blocks, start=1):
            for inner, value in _weaken_shortcut(swin.block(stage, block)).items():
                if inner.startswith(prefixes):
                    values[f"stage{stage + 1}_block{number}/{inner}"] = value
    return values


def _weaken_shortcut(weights):
    """A block's weights with larger values and a smaller projection: see `VALUE_SCALE`."""
    scaled = dict(weights)
    for name in ("kernel", "bias"):
        query, key, value = np.split(weights[f"attn/dsa_qkv/{name}"], 3, axis=-1)
        scaled[f"attn/dsa_qkv/{name}"] = np.concatenate([query, key, VALUE_SCALE * value], axis=-1)
    scaled["attn/proj/kernel"] = weights["attn/proj/kernel"] / VALUE_SCALE
    return scaled


def _final_norm(swin, summary):
    norm = swin.norm()
    if norm is None:
        raise ValueError(
            f"`parts` names 'norms', and '{swin.name}' has no final norm of its last stage's width."
        )
    layer = f"stage{len(summary.hidden_dims)}_norm" if summary.dense else "norm"
    return _of_norm(layer, *norm)


def _head(model, variables, swin):
    head, kernel = swin.head(), variables.get("head/kernel")
    there = None if head is None else head[0].shape[-1]
    here = None if kernel is None else kernel.shape[-1]
    if there is None or there != here:
        classes = (f"{count:,} classes" if count else "no head" for count in (there, here))
        raise ValueError(
            f"`parts` names 'head', and '{swin.name}' has {next(classes)}, model `{model.name}` "
            f"{next(classes)}. Leave out 'head'."
        )
    return {"head/kernel": head[0], "head/bias": head[1]}


def _of_norm(layer, gamma, beta):
    return {f"{layer}/gamma": gamma, f"{layer}/beta": beta}


def _embeddings(variables, swin, images, dense):
    """Values of the patch embeddings by path: those taken, and those of fitted norms."""
    reductions = swin.reductions()
    maps = [None] * len(reductions)
    if images is not None and any(reduction.norm is None for reduction in reductions):
        maps = swin.maps(images)
    taken, fitted = {}, {}
    for stage, (reduction, inputs) in enumerate(zip(reductions, maps, strict=True), start=1):
        layer = f"stage{stage}_embed"
        kernel = np.zeros(variables[f"{layer}/proj/kernel"].shape)
        side = len(reduction.kernel)
        kernel[-side:, -side:] = reduction.kernel  # all of it where patches do not overlap
        taken[f"{layer}/proj/kernel"] = kernel
        if reduction.norm is not None:
            taken[f"{layer}/proj/bias"] = reduction.offset
            taken.update(_of_norm(f"{layer}/norm", *reduction.norm))
            continue
        # The new norm's beta adds what is constant.
        taken[f"{layer}/proj/bias"] = np.zeros_like(reduction.offset)
        norm = _guess(reduction) if inputs is None else _fit(reduction, inputs, dense, stage == 1)
        fitted.update(_of_norm(f"{layer}/norm", *norm))
    return taken, fitted


def _guess(reduction):
    """(gamma, beta) of a norm where the numbers of patches are independent, of variance 1."""
    filters = len(reduction.offset)
    deviation = np.sqrt(np.sum(reduction.kernel**2) / filters)
    return np.full(filters, deviation), reduction.offset


def _fit(reduction, inputs, dense, of_pixels):
    """(gamma, beta) of a norm with which its map is nearest to the Swin's, channel by channel.

    Both maps are made of the Swin's own, which all sizes of images and models have in common.
    SepViT's own map of the stage before, with PSA still random in it, says less about what a norm
    that is trained later should be.

    Args:
        reduction: The Swin's `Reduction`.
        inputs: What it reads: (batch, height, width, channels).
        dense: Whether SepViT has a norm in between, of each position.
        of_pixels: Whether `inputs` are pictures, which no norm is in front of.
    """
    side = len(reduction.kernel)
    kernel = reduction.kernel.reshape(-1, len(reduction.offset))
    patches = _patches(inputs, side)
    own = target = patches @ kernel
    if not of_pixels:
        variance = patches.var(axis=-1, keepdims=True)
        target = target / np.sqrt(variance + _EMBED_EPSILON)
        if dense:
            own = _patches(_normalised(inputs, _STAGE_EPSILON), side) @ kernel
    own = _normalised(own, _EMBED_EPSILON)
    target = target + reduction.offset
    means = own.mean(axis=0), target.mean(axis=0)
    covariance = np.mean((own - means[0]) * (target - means[1]), axis=0)
    gamma = covariance / np.maximum(own.var(axis=0), np.finfo("float32").tiny)
    return gamma, means[1] - gamma * means[0]


def _patches(maps, side):
    """Patches of maps, padded with zeros: (patches, side * side * channels), row by row."""
    _, height, width, channels = maps.shape
    maps = np.pad(maps, [(0, 0), (0, -height % side), (0, -width % side), (0, 0)])
    batch, height, width, _ = maps.shape
    maps = maps.reshape(batch, height // side, side, width // side, side, channels)
    return maps.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side * channels)


def _normalised(x, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + epsilon)
