"""A Swin Transformer of KerasHub's layers, as arrays and maps (arXiv 2103.14030).

Knows KerasHub's attributes, and none of its classes: any model of such layers will do.
"""

import contextlib
import dataclasses
import os
import warnings
import zipfile

import keras
import numpy as np
from keras import layers, ops

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.lazy import require
from keras_sepvit.validation import as_sentence
from keras_sepvit.weights.files import check_file, damaged, has_weights_suffix, suffix_of

# Pictures that are computed at a time.
_BATCH = 8

# In the folder of a preset.
_CONVERTER = "image_converter.json"


def check_swin_file(source):
    """Refuses a `source` of `warm_start` that is a file's path, where `open_swin` cannot read it.

    Args:
        source: A path, the name of a preset, which is not looked for, or None.

    Raises:
        ValueError: if it is no `.keras` file.
        FileNotFoundError: if there is no such file.
    """
    if source is None or not has_weights_suffix(source):
        return
    source = os.path.expanduser(source)
    if not _is_model_file(source):
        raise ValueError(
            "`source` must be a .keras file or a KerasHub preset: weights alone do not tell a "
            f"Swin's layers. Received: {str(source)!r}. Save the whole model with `model.save`."
        )
    check_file(source)


def open_swin(source, with_head=False):
    """The `Swin` that a `source` of `warm_start` stands for.

    Args:
        source: See there.
        with_head: Whether the classifier of a preset is wanted, and not its backbone alone.

    Raises:
        ValueError: if it is none.
        FileNotFoundError: if there is no such file.
        ImportError: if KerasHub is needed and not installed.
    """
    if isinstance(source, keras.Model):
        return Swin(source, source.name)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "`source` must be a Keras model with a Swin in it, the path of a .keras file of one, "
            f"or the name of a KerasHub preset. Received: {type(source).__name__}."
        )
    check_swin_file(source)
    source = os.path.expanduser(source)
    keras_hub = require("keras_hub", "hub", f"A warm start from '{source}'")
    with _without_warnings():
        if _is_model_file(source):
            return Swin(_load(source), str(source))
        return _of_preset(keras_hub, source, with_head)


@contextlib.contextmanager
def _without_warnings():
    """Without those of KerasHub's attention, whose masks are none of Keras's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layer 'attn'")
        yield


def _load(path):
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # what Keras raises depends on where the file is broken
        if not zipfile.is_zipfile(path):
            raise damaged(path, "a .keras file", "its end is missing") from error
        raise ValueError(
            f"'{path}' cannot be loaded as a Keras model: {as_sentence(error)} Import first what "
            "registers layers of its own."
        ) from error


def _of_preset(keras_hub, name, with_head):
    kind = keras_hub.models.ImageClassifier if with_head else keras_hub.models.Backbone
    try:
        model, converter = kind.from_preset(name), None
        # A folder of a backbone that was saved alone has none.
        if not os.path.isdir(name) or os.path.exists(os.path.join(name, _CONVERTER)):
            converter = keras_hub.layers.ImageConverter.from_preset(name)
    except Exception as error:  # plain ones where a download fails
        raise ValueError(
            f"'{name}' is no .keras file, and cannot be loaded as a preset of KerasHub: "
            f"{as_sentence(error)} Without internet, take the .keras file of a model with a Swin."
        ) from error
    return Swin(model, name, converter)


def _is_model_file(source):
    return suffix_of(source) == ".keras"


@dataclasses.dataclass(frozen=True)
class Reduction:
    """What a Swin does in front of a stage: patches are embedded, or merged.

    Of a patch x it makes `x @ kernel / deviation(x) + offset`, where the deviation is 1 for the
    patch embedding, and the standard deviation of the whole patch for patch merging, whose
    kernel has its norm in it. With `norm`, a norm over the channels follows.

    Attributes:
        kernel: float64 (side, side, channels, filters).
        offset: float64 (filters,).
        norm: (gamma, beta) of the norm behind it, or None.
    """

    kernel: np.ndarray
    offset: np.ndarray
    norm: tuple | None = None


class Swin:
    """A Swin Transformer among the layers of a Keras model.

    Args:
        model: A model with a patch embedding, stages and a final norm of KerasHub's among its
            layers, at any depth.
        name: What to call it.
        converter: KerasHub's image converter, in front of all layers; None for that of the
            model's own `preprocessor`, if it has one.

    Attributes:
        name: `name`.
        patch_size: Side of a patch.
        channels: Of its pictures.
        hidden_dims, depths, num_heads, mlp_dims: Of each stage: channels, number of blocks,
            attention heads, hidden channels of MLPs.
        image_size: (height, width) of the pictures that it takes.

    Raises:
        ValueError: if the model has no such layers.
    """

    def __init__(self, model, name, converter=None):
        self.name = name
        in_front, self._embedding, self._stages, behind = _taken_apart(model)
        if self._embedding is None or not self._stages:
            raise ValueError(
                f"`source` must have a Swin among its layers, with KerasHub's attributes: a patch "
                f"embedding (`proj`, `patch_size`) and stages (`blocks`, `downsample`). '{name}' "
                "has none."
            )
        preprocessor = getattr(model, "preprocessor", None)
        converter = converter or getattr(preprocessor, "image_converter", None)
        self._scale, self._offset = _preprocessing([converter, *in_front])
        first = [stage.blocks[0] for stage in self._stages]
        self.patch_size = self._embedding.patch_size
        self.channels = self._embedding.proj.kernel.shape[2]
        self.hidden_dims = tuple(block.norm1.gamma.shape[0] for block in first)
        self.depths = tuple(len(stage.blocks) for stage in self._stages)
        self.num_heads = tuple(block.attn.num_heads for block in first)
        self.mlp_dims = tuple(block.mlp.fc1.kernel.shape[1] for block in first)
        self.image_size = tuple(side * self.patch_size for side in self._stages[0].input_resolution)
        self._norm = _last(behind, layers.LayerNormalization, "gamma", self.hidden_dims[-1])
        self._head = _last(behind, layers.Dense, "kernel", self.hidden_dims[-1])

    def reductions(self):
        """The `Reduction`s in front of the stages, for images that ImageNet's statistics normalise.

        What the Swin's own preprocessing differs in is in the first kernel and offset.
        """
        return [self._patch_embedding(), *(self._merging(stage) for stage in self._stages[:-1])]

    def _patch_embedding(self):
        kernel, offset = _array(self._embedding.proj.kernel), _array(self._embedding.proj.bias)
        deviation, mean = np.sqrt(IMAGENET_VARIANCE), np.array(IMAGENET_MEAN)
        offset = offset + np.einsum("rcif,i->f", kernel, self._scale * mean + self._offset)
        kernel = kernel * (self._scale * deviation)[:, None]
        return Reduction(kernel, offset, self._embedding.norm and _norm(self._embedding.norm))

    def _merging(self, stage):
        weights = _array(stage.downsample.reduction.kernel)
        gamma, beta = _norm(stage.downsample.norm)
        kernel = gamma[:, None] * weights
        kernel -= kernel.mean(axis=0)  # in place of subtracting the patch's mean
        # KerasHub joins the four positions of a patch column by column.
        columns = kernel.reshape(2, 2, -1, weights.shape[-1])
        return Reduction(columns.transpose(1, 0, 2, 3), beta @ weights)

    def block(self, stage, block):
        """The weights of a block by the paths that they have in a SepViT's, float64.

        Args:
            stage, block: Their numbers, from 0.
        """
        block = self._stages[stage].blocks[block]
        weights = {}
        for path, layer in {
            "attn/dsa_qkv": block.attn.qkv,
            "attn/proj": block.attn.proj,
            "mlp/fc1": block.mlp.fc1,
            "mlp/fc2": block.mlp.fc2,
        }.items():
            weights[f"{path}/kernel"], weights[f"{path}/bias"] = _dense(layer)
        for path in ("norm1", "norm2"):
            weights[f"{path}/gamma"], weights[f"{path}/beta"] = _norm(getattr(block, path))
        return weights

    def norm(self):
        """(gamma, beta) of the final norm, float64; None where there is none."""
        return self._norm and _norm(self._norm)

    def head(self):
        """(kernel, bias) of the head, float64; None where there is none."""
        return self._head and _dense(self._head)

    def maps(self, images):
        """What the `reductions` read, of pictures.

        Args:
            images: Array (batch, height, width, 3) of 0..255; resized where the Swin takes
                another size.

        Returns:
            List of float32 arrays (batch, height, width, channels): the pictures, normalised with
            ImageNet's statistics, and the maps of all stages but the last.
        """
        parts = range(0, len(images), _BATCH)
        pixels = np.concatenate([self._resized(images[i : i + _BATCH]) for i in parts])
        own = np.asarray(pixels * self._scale + self._offset, "float32")
        with _without_warnings():
            maps = _Maps(self._embedding, self._stages).predict(own, batch_size=_BATCH, verbose=0)
        normalised = (pixels - IMAGENET_MEAN) / np.sqrt(IMAGENET_VARIANCE)
        return [np.asarray(normalised, "float32"), *maps]

    def _resized(self, images):
        images = np.asarray(images, "float32")
        if images.shape[1:3] == self.image_size:
            return images
        images = ops.convert_to_tensor(images)
        return ops.convert_to_numpy(
            ops.image.resize(images, self.image_size, antialias=True, data_format="channels_last")
        )


class _Maps(keras.Model):
    """A Swin's layers, to the maps in front of each patch merging."""

    def __init__(self, embedding, stages):
        super().__init__(name="swin_maps")  # TensorFlow takes no underscore in front
        self.embedding = embedding
        self.stages = stages
        self.built = True

    def call(self, images):
        maps, x = [], self.embedding(images)
        for stage in self.stages[:-1]:
            for block in stage.blocks:
                x = block(x)
            height, width = stage.input_resolution
            maps.append(ops.reshape(x, (-1, height, width, x.shape[-1])))
            x = stage.downsample(x, H=height, W=width)
        return maps


def _taken_apart(model):
    """Layers in front of a Swin, its patch embedding or None, its stages, and the other layers."""
    in_front, embedding, stages, behind, seen = [], None, [], [], set()

    def visit(layer):
        nonlocal embedding
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if hasattr(layer, "proj") and hasattr(layer, "patch_size"):
            embedding = embedding or layer
        elif hasattr(layer, "blocks") and hasattr(layer, "downsample"):
            stages.append(layer)
        else:
            (in_front if embedding is None else behind).append(layer)
            inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
            for part in inner:
                visit(part)

    visit(model)
    return in_front, embedding, stages, behind


def _preprocessing(in_front):
    """Factors and summands of the channels, from pixels of 0..255 to what a Swin takes.

    Args:
        in_front: The layers in front of it, in order, and Nones. Where none of them normalises or
            rescales, images are normalised with ImageNet's statistics, as KerasHub's presets have
            it in their image converters.
    """
    steps = []
    for layer in in_front:
        if isinstance(layer, layers.Normalization):
            deviation = np.sqrt(_array(layer.variance))
            steps.append((1 / deviation, -_array(layer.mean) / deviation))
        elif hasattr(layer, "scale") and hasattr(layer, "offset"):  # a converter, or `Rescaling`
            scale = 1 if layer.scale is None else layer.scale
            steps.append((scale, 0 if layer.offset is None else layer.offset))
    if not steps:
        deviation = np.sqrt(IMAGENET_VARIANCE)
        steps = [(1 / deviation, -np.array(IMAGENET_MEAN) / deviation)]
    scale, offset = np.ones(3), np.zeros(3)
    for factor, summand in steps:
        factor, summand = np.ravel(factor), np.ravel(summand)
        scale, offset = scale * factor, offset * factor + summand
    return scale, offset


def _last(candidates, kind, variable, width):
    """The last layer of a kind whose variable has so many rows, or None."""
    fitting = [
        layer
        for layer in candidates
        if isinstance(layer, kind) and getattr(layer, variable).shape[0] == width
    ]
    return fitting[-1] if fitting else None


def _array(variable):
    return np.asarray(ops.convert_to_numpy(variable), "float64")


def _dense(layer):
    kernel = _array(layer.kernel)
    return kernel, np.zeros(kernel.shape[-1]) if layer.bias is None else _array(layer.bias)


def _norm(layer):
    return _array(layer.gamma), _array(layer.beta)
