"""The SepViT backbone: four stages of blocks, with their pyramid of features."""

import inspect
import os
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import layers

from keras_sepvit.block import SepViTBlock
from keras_sepvit.composite import dtype_config
from keras_sepvit.configs import (
    PATCH_EMBEDDINGS,
    WINDOW_TOKENS,
    ImageShape,
    SepViTConfig,
    WindowSizes,
    variant_architecture,
)
from keras_sepvit.geometry import STRIDES, check_windows_fit, window_pairs
from keras_sepvit.layers import PEG, PatchEmbedding, imagenet_normalization
from keras_sepvit.stages import StagesMixin, argument, freeze_layers, frozen_layers
from keras_sepvit.validation import (
    check_channels_last,
    check_choice,
    check_heads,
    check_names,
    check_rate,
    flag,
    policy_of,
    positive_int,
    positive_number,
)
from keras_sepvit.weights import check_pretrained, load_pretrained
from keras_sepvit.weights.registry import config_for_weights


class BackboneMixin(StagesMixin):
    """What backbones share, on whatever base class: arguments, graph and configuration.

    Stands in front of `keras.Model`, or a subclass of it, among the bases of a
    class. See `SepViTBackbone` for the arguments; those that make the architecture
    are read-only attributes too.
    """

    hidden_dims = argument("hidden_dims")
    depths = argument("depths")
    num_heads = argument("num_heads")
    window_sizes = argument("window_sizes")
    image_shape = argument("image_shape")
    mlp_ratio = argument("mlp_ratio")
    drop_path_rate = argument("drop_path_rate")
    window_tokens = argument("window_tokens")
    patch_embedding = argument("patch_embedding")
    dense = argument("dense")
    pad_windows = argument("pad_windows")
    residual_in_fp32 = argument("residual_in_fp32")
    include_preprocessing = argument("include_preprocessing")

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Before Python asks for the other arguments of an architecture.
        variant = args[0] if args else kwargs.get("variant")
        if isinstance(variant, (str, SepViTConfig)):
            name = repr(variant) if isinstance(variant, str) else "config"
            raise TypeError(
                f"`{cls.__name__}` takes the numbers of an architecture. For those of a variant "
                f"call `{cls.__name__}.from_variant({name})`."
            )
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self,
        hidden_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: WindowSizes,
        image_shape: ImageShape = (224, 224, 3),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        window_tokens: str | None = None,
        patch_embedding: str = "overlapping",
        dense: bool = False,
        pad_windows: bool = False,
        include_preprocessing: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        residual_in_fp32: bool = False,
        **kwargs: Any,
    ) -> None:
        check_names(type(self).__name__, kwargs, _ARGUMENTS, _NOTE)
        stages = {"hidden_dims": hidden_dims, "depths": depths, "num_heads": num_heads}
        stages["window_sizes"] = window_pairs(window_sizes)
        architecture = {
            **stages,
            "mlp_ratio": positive_number("mlp_ratio", mlp_ratio),
            "drop_path_rate": check_rate("drop_path_rate", drop_path_rate),
            "window_tokens": window_tokens or ("zeros" if dense else "learned"),
            "patch_embedding": patch_embedding,
            "dense": flag("dense", dense),
            "pad_windows": flag("pad_windows", pad_windows),
            "residual_in_fp32": flag("residual_in_fp32", residual_in_fp32),
        }
        policy = policy_of(dtype)
        image_shape = check_image_shape(image_shape)
        inputs = keras.Input(image_shape, name="image")
        include_preprocessing = flag("include_preprocessing", include_preprocessing)
        x = imagenet_preprocessing(image_shape)(inputs) if include_preprocessing else inputs
        outputs = sepvit_features(x, dtype=policy, **architecture)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)  # type: ignore[call-arg]
        freeze_layers(self, self.layers)
        self.dtype_policy = policy
        self._config = {
            **architecture,
            **{name: tuple(numbers) for name, numbers in stages.items()},
            "image_shape": image_shape,
            "include_preprocessing": include_preprocessing,
        }

    @classmethod
    def from_variant(
        cls,
        variant: str | SepViTConfig,
        image_shape: ImageShape = (224, 224, 3),
        weights: str | os.PathLike[str] | None = None,
        drop_path_rate: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """The backbone of a variant.

        In the classification form windows scale with the image (see
        `keras_sepvit.geometry.scale_windows`), unless `pad_windows=True`.

        Args:
            variant: `"sepvit_lite"`, `"sepvit_t"`, `"sepvit_s"`, `"sepvit_b"`,
                or a `SepViTConfig`.
            image_shape: (height, width, channels).
            weights: None for random weights, or whatever the `weights` of
                `SepViT` takes: weights of the backbone or of a classifier, at any
                image size. Those of a classifier fit the dense form too; a warning
                tells which were not used, and which of the backbone stay random.
            drop_path_rate: None for that of the variant's published training recipe.
            **kwargs: Other arguments of `SepViTBackbone`, which override those
                of the variant.

        Raises:
            ValueError: for arguments out of range, and weights that do not fit,
                such as another variant's (naming what differs).
            FileNotFoundError: if the file in `weights` does not exist.
        """
        config = config_for_weights("variant", variant)
        check_pretrained(weights)
        image_shape = check_image_shape(image_shape)
        fixed = kwargs.get("dense") or kwargs.get("pad_windows")
        architecture = variant_architecture(config, image_shape, scale=not fixed)
        if kwargs.get("dense") and architecture["window_tokens"] == "learned":
            architecture["window_tokens"] = "zeros"
        if drop_path_rate is None:
            drop_path_rate = config.drop_path_rate
        architecture.update(image_shape=image_shape, drop_path_rate=drop_path_rate)
        backbone = cls(**{**architecture, **kwargs})
        if weights is not None:
            load_pretrained(backbone, weights)
        return backbone

    def get_config(self):
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": dtype_config(self),
            **self._config,
        }
        return {**config, **frozen_layers(self, self.layers)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        frozen = config.pop("frozen_layers", None)
        backbone = super().from_config(config)
        freeze_layers(backbone, backbone.layers, frozen)
        return backbone


# What the constructor takes.
_ARGUMENTS = [*inspect.signature(BackboneMixin.__init__).parameters][1:-1] + ["name", "trainable"]
_NOTE = " `from_variant` takes `variant` and `weights` too; those of a head are `SepViT`'s."


@keras.saving.register_keras_serializable(package="keras_sepvit")
class SepViTBackbone(BackboneMixin, keras.Model):
    """Separable Vision Transformer features (arXiv 2203.15380), without a head.

    A functional model: its layers are named `stage1_embed`, `stage1_block1`,
    `stage1_peg`, ..., and can be reached, cut and recombined by name. Keras's `clone_model` gives
    a plain functional model of it; `SepViTBackbone.from_config(backbone.get_config())` a backbone.

    The network has two forms. The *classification form* (`dense=False`) has a
    fixed input size, one learned window token a window, and a final norm. The
    *dense form* (`dense=True`), for detection and segmentation, takes images of
    any size, dynamic ones too: window tokens are zeros, maps are padded to
    whole windows, every block has PSA, and each stage ends with a norm, which
    the next stage reads.

    Args:
        hidden_dims: Channels of the four stages.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; must divide its channels.
        window_sizes: For each stage, the window of each of its blocks, as an
            int or a (height, width) pair.
        image_shape: (height, width, channels) of the images. Height and width
            may be None in the dense form.
        mlp_ratio: Hidden channels of an MLP over its input channels.
        drop_path_rate: Drop path rate of the last block, in [0, 1); it rises
            linearly from 0 at the first.
        window_tokens: `"learned"` (the classification form's default),
            `"zeros"` (the dense form's), `"average_pooling"` or
            `"depthwise_conv"`; see `SepViTBlock`.
        patch_embedding: `"overlapping"` or `"non_overlapping"`.
        dense: The dense form, see above.
        pad_windows: Pad maps that are no multiple of the window. Always so in
            the dense form; an error otherwise by default.
        include_preprocessing: Begin with a layer that normalises RGB images of
            0..255 with ImageNet's mean and standard deviation.
        dtype: Dtype policy of all layers; the global policy by default.
        residual_in_fp32: Under half-precision policies, add the branches of blocks
            in float32, and keep the map between them so, as PyTorch's autocast does.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Input shape: `(batch, height, width, channels)`; float, normalised with
    ImageNet's mean and standard deviation, or of 0..255 with
    `include_preprocessing`.

    Output shape: `(batch, height / 32, width / 32, hidden_dims[-1])`. The
    outputs of the stages, at strides of 4, 8, 16 and 32, are in
    `pyramid_outputs`.

    Raises:
        ValueError: for arguments of different lengths or out of range, heads
            that do not divide channels, a size that the windows do not fit
            (naming sizes that do), and `channels_first`.

    Example:

    ```python
    backbone = keras_sepvit.SepViTBackbone.from_variant(
        "sepvit_t", dense=True, image_shape=(None, None, 3)
    )
    pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    features = pyramid(images)  # {"P2": ..., "P3": ..., "P4": ..., "P5": ...}
    ```
    """


def sepvit_features(
    x,
    hidden_dims,
    depths,
    num_heads,
    window_sizes,
    mlp_ratio,
    drop_path_rate,
    window_tokens,
    patch_embedding,
    dense,
    pad_windows,
    residual_in_fp32,
    dtype,
):
    """Builds the functional graph of the backbone on a Keras tensor; returns the output map."""
    check_channels_last()
    _check_stages(
        hidden_dims=hidden_dims, depths=depths, num_heads=num_heads, window_sizes=window_sizes
    )
    check_choice("patch_embedding", patch_embedding, PATCH_EMBEDDINGS)
    check_choice("window_tokens", window_tokens, WINDOW_TOKENS)
    if dense and window_tokens == "learned":
        raise ValueError(
            "The dense form takes images of any size and has no learned window tokens. Received: "
            "dense=True, window_tokens='learned'. Leave `window_tokens` out, or use another value."
        )
    if not (dense or pad_windows):
        check_windows_fit(x.shape[1:3], window_sizes, patch_embedding)

    rates = _linear_rates(drop_path_rate, sum(depths))
    for stage, (dim, heads, windows, stride) in enumerate(
        zip(hidden_dims, num_heads, window_sizes, STRIDES, strict=True), start=1
    ):
        x = PatchEmbedding(dim, stride, patch_embedding, dtype=dtype, name=f"stage{stage}_embed")(x)
        for block, window in enumerate(windows, start=1):
            x = SepViTBlock(
                heads,
                window,
                mlp_ratio=mlp_ratio,
                drop_path_rate=next(rates),
                window_tokens=window_tokens,
                pad=dense or pad_windows,
                single_window_psa=dense,
                residual_in_fp32=residual_in_fp32,
                dtype=dtype,
                name=f"stage{stage}_block{block}",
            )(x)
            if block == 1:
                x = PEG(residual_in_fp32, dtype=dtype, name=f"stage{stage}_peg")(x)
        if dense:
            x = _norm(f"stage{stage}_norm", dtype)(x)
    return x if dense else _norm("norm", dtype)(x)


def check_image_shape(image_shape, name="image_shape"):
    """An argument as a tuple (height, width, channels)."""
    shape = tuple(image_shape) if isinstance(image_shape, (tuple, list)) else ()
    if len(shape) != 3 or shape[-1] is None:
        sides = [image_shape] * 2 if isinstance(image_shape, int) else shape
        instead = f" Write {name}={(*sides, 3)}." if len(sides) == 2 else ""
        raise ValueError(
            f"`{name}` must be (height, width, channels), with a static number of channels. "
            f"Received: {name}={image_shape!r}.{instead}"
        )
    shape = tuple(None if side is None else positive_int(name, side) for side in shape)
    channels, *sides = shape
    if channels in (1, 3) and None not in sides and min(sides) > 4:
        raise ValueError(
            f"`{name}` must be (height, width, channels): images are channels-last. Received: "
            f"{name}={shape}. Write {name}={(*sides, channels)}."
        )
    return shape


def imagenet_preprocessing(image_shape):
    """The layer `preprocessing`, which normalises RGB images of 0..255 of this shape."""
    if image_shape[-1] != 3:
        raise ValueError(
            "`include_preprocessing=True` is for RGB images with 3 channels. Received images of "
            f"shape {image_shape}. Convert them to RGB, or pass include_preprocessing=False and "
            "normalise them yourself."
        )
    return imagenet_normalization("preprocessing")


def _check_stages(**stages):
    """Refuses arguments that have not one entry a stage, and those that do not go together."""
    for name, values in stages.items():
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(STRIDES):
            raise ValueError(
                f"`{name}` must have one entry for each of the {len(STRIDES)} stages. "
                f"Received: {name}={values!r}."
            )
    depths, window_sizes = stages["depths"], stages["window_sizes"]
    for depth, windows in zip(depths, window_sizes, strict=True):
        if positive_int("depths", depth) != len(windows):
            raise ValueError(
                "`window_sizes` must have one window for each block of a stage. Received: "
                f"depths={depths}, window_sizes={window_sizes}."
            )
    for dim, heads in zip(stages["hidden_dims"], stages["num_heads"], strict=True):
        check_heads(positive_int("hidden_dims", dim), positive_int("num_heads", heads))


def _linear_rates(last, count):
    """Drop path rates that rise linearly from 0 at the first block to `last`."""
    return (last * index / max(count - 1, 1) for index in range(count))


def _norm(name, dtype):
    return layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name=name)
