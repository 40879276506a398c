"""SepViT classifiers with the conventions of `keras.applications`."""

import inspect
import os
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec

import keras
from keras import layers
from keras.applications import imagenet_utils

from keras_sepvit.backbone import (
    check_image_shape,
    imagenet_preprocessing,
    sepvit_features,
)
from keras_sepvit.configs import (
    VARIANTS,
    ImageShape,
    SepViTConfig,
    variant_architecture,
)
from keras_sepvit.initializers import TruncatedNormal
from keras_sepvit.record import Recorded
from keras_sepvit.stages import StagesMixin
from keras_sepvit.validation import (
    check_choice,
    check_rate,
    checks_names,
    did_you_mean,
    flag,
    policy_of,
    positive_int,
)
from keras_sepvit.weights import check_pretrained, load_pretrained
from keras_sepvit.weights.registry import config_for_weights

_DOCSTRING = """{title}

Reference: "SepViT: Separable Vision Transformer", arXiv 2203.15380.

No ImageNet weights have been published for SepViT, so `weights=None` is the
default.

Args:
{variant}    include_top: Whether to include the classification head.
    include_preprocessing: Whether the model normalises its images itself. If
        True, it takes RGB images of 0..255. If False, it takes images that
        `keras.applications.imagenet_utils.preprocess_input(x, mode="torch")`
        has normalised.
    weights: None for random weights; a `.weights.h5` or `.keras` file, or a
        checkpoint of the authors' PyTorch code (`.pth`, `.pt`, `.bin`,
        `.safetensors`); the `https://` address of such a file, followed by
        `#sha256=` and its checksum; or the name of registered weights. Of a
        model with other layers behind its backbone, such as
        `Sequential([backbone, Dense(5)])`, the backbone, with a warning.
    input_tensor: Optional Keras tensor to use as the image input.
    input_shape: Optional (height, width, 3); {size} by default. Windows scale
        with the image, so that the weights of one size fit another. See
        `pad_windows` for sizes that they cannot scale to.
    pooling: With `include_top=False`: None for the normed map of the last
        stage, `"avg"` for its mean or `"max"` for its maximum over positions.
    classes: Number of classes of the head.
    classifier_activation: Activation of the head; None for logits.
    name: Name of the model.
    drop_path_rate: Drop path rate of the last block, in [0, 1). By default that
        of the published training recipe{rate}.
    pad_windows: Keep the windows' size at every image size, and pad maps to
        whole windows with zeros. Learned tokens are then resized on loading.
    skip_head_mismatch: If the file in `weights` is for another number of
        classes, keep the random head, with a warning, instead of an error.
    dtype: Dtype policy of all layers, such as `"mixed_bfloat16"`; the global policy by
        default. Images are normalised, and answers given, in float32 at least.
    residual_in_fp32: Under half-precision policies, add the branches of blocks
        in float32, and keep the map between them so, as PyTorch's autocast does.

Input shape: `(batch, height, width, 3)`.

Output shape: `(batch, classes)` with the head. Without it
`(batch, height / 32, width / 32, channels)`, or `(batch, channels)` with
pooling.

Returns:
    A `SepViTClassifier`, a functional `keras.Model` with `pyramid_outputs` and `freeze`.

Raises:
    ValueError: for an argument out of range, a size that the windows do not fit
        (naming sizes that do), `channels_first`, and weights that do not fit the
        model (naming what differs).
    FileNotFoundError: if the file in `weights` does not exist.
"""

_VARIANT_ARGUMENT = """    variant: `"sepvit_lite"`, `"sepvit_t"`, `"sepvit_s"`, `"sepvit_b"`, or a
        `keras_sepvit.SepViTConfig` of your own.
"""


@keras.saving.register_keras_serializable(package="keras_sepvit")
class SepViTClassifier(StagesMixin, Recorded, keras.Model):
    """The functional model that `SepViT` and the constructors of the variants return.

    Its `pyramid_outputs` and `freeze` are those of `SepViTBackbone`. Its `record`, which
    `keras_sepvit.inference.attach_record` makes, says how it is evaluated, and stays with it in
    `.keras` files.
    """

    dense = False  # the form, as backbones tell it
    _shape_argument = "input_shape"


@checks_names
def SepViT(
    variant: str | SepViTConfig,
    include_top: bool = True,
    include_preprocessing: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: ImageShape | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable[..., Any] | None = "softmax",
    name: str = "sepvit",
    drop_path_rate: float | None = None,
    pad_windows: bool = False,
    skip_head_mismatch: bool = False,
    dtype: str | keras.DTypePolicy | None = None,
    residual_in_fp32: bool = False,
) -> SepViTClassifier:
    config = config_for_weights("variant", variant)
    check_choice("pooling", pooling, (None, "avg", "max"))
    include_top = flag("include_top", include_top)
    include_preprocessing = flag("include_preprocessing", include_preprocessing)
    pad_windows = flag("pad_windows", pad_windows)
    skip_head_mismatch = flag("skip_head_mismatch", skip_head_mismatch)
    residual_in_fp32 = flag("residual_in_fp32", residual_in_fp32)
    activation = _activation(classifier_activation)
    if include_top and pooling is not None:
        raise ValueError(
            "`pooling` is for models without a head. Received: "
            f"pooling={pooling!r}, include_top=True. Drop it, or pass include_top=False."
        )
    check_pretrained(weights)
    if drop_path_rate is None:
        drop_path_rate = config.drop_path_rate

    policy = policy_of(dtype)
    inputs, x = _image_input(input_tensor, input_shape, config.image_size)
    image_shape = check_image_shape(x.shape[1:])
    if include_preprocessing:
        x = imagenet_preprocessing(image_shape)(x)
    x = sepvit_features(
        x,
        **variant_architecture(config, image_shape, scale=not pad_windows),
        drop_path_rate=check_rate("drop_path_rate", drop_path_rate),
        dense=False,
        pad_windows=pad_windows,
        residual_in_fp32=residual_in_fp32,
        dtype=policy,
    )
    if include_top or pooling == "avg":
        x = layers.GlobalAveragePooling2D("channels_last", dtype=policy, name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D("channels_last", dtype=policy, name="max_pool")(x)
    if include_top:
        x = layers.Dense(
            positive_int("classes", classes),
            activation=activation,
            kernel_initializer=TruncatedNormal(),
            dtype=keras.backend.result_type(policy.compute_dtype, "float32"),
            name="head",
        )(x)
    model = SepViTClassifier(inputs, x, name=name)
    model.dtype_policy = policy
    if weights is not None:
        load_pretrained(model, weights, skip_head_mismatch=skip_head_mismatch)
    return model


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Returns `x` as it is: preprocessing is part of the model.

    Kept for code written for `keras.applications`. A model made with
    `include_preprocessing=False` wants
    `keras.applications.imagenet_utils.preprocess_input(x, mode="torch")`.

    Args:
        x: Images of 0..255, RGB.
        data_format: Not used.
    """
    return x


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """ImageNet's class names for predictions of 1000 classes.

    Args:
        preds: Array or tensor of shape (batch, 1000).
        top: How many guesses to return for an image.

    Returns:
        For each image a list of `top` tuples (WordNet ID, name, score), the
        most probable first. The list of names is downloaded once by Keras.

    Raises:
        ValueError: for `preds` of another shape.
    """
    return imagenet_utils.decode_predictions(keras.ops.convert_to_numpy(preds), top=top)


def _activation(activation):
    """The function of a `classifier_activation`."""
    try:
        return keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        meant = did_you_mean(str(activation), dir(keras.activations), mark="'")
        raise ValueError(
            f"Unknown `classifier_activation`: {activation!r}.{meant} Expected the name of an "
            "activation of Keras, a function, or None for logits."
        ) from error


def _image_input(input_tensor, input_shape, image_size):
    """The model's inputs, and the image tensor to build on."""
    if input_tensor is None:
        shape = (image_size, image_size, 3) if input_shape is None else input_shape
        x = keras.Input(check_image_shape(shape, "input_shape"), name="image")
        return x, x
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, such as `keras.Input(...)` or the output of a "
            f"layer on one. Received: {type(input_tensor).__name__}."
        )
    if len(input_tensor.shape) != 4:
        raise ValueError(
            "`input_tensor` must have the shape (batch, height, width, channels). "
            f"Received: {input_tensor.shape}."
        )
    if input_shape is not None and tuple(input_shape) != tuple(input_tensor.shape[1:]):
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} differs from the shape of `input_tensor`, "
            f"{tuple(input_tensor.shape[1:])}. Pass only one of them."
        )
    return keras.utils.get_source_inputs(input_tensor), input_tensor


SepViT.__doc__ = _DOCSTRING.format(
    title="A SepViT classifier of any architecture.",
    variant=_VARIANT_ARGUMENT,
    size="the configuration's image size, (224, 224, 3) for the family,",
    rate="",
)


_Arguments = ParamSpec("_Arguments")


def _constructor(
    name: str,
    variant: str,
    of_any_variant: Callable[Concatenate[str | SepViTConfig, _Arguments], SepViTClassifier],
) -> Callable[_Arguments, SepViTClassifier]:
    """`SepViT` of one variant, under this name."""
    signature = inspect.signature(of_any_variant)
    _, *parameters = signature.parameters.values()
    signature = signature.replace(
        parameters=[p.replace(default=variant) if p.name == "name" else p for p in parameters]
    )

    def construct(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> SepViTClassifier:
        arguments = signature.bind(*args, **kwargs)
        arguments.apply_defaults()
        return SepViT(variant, **arguments.arguments)

    construct.__name__ = construct.__qualname__ = name
    construct.__signature__ = signature  # type: ignore[attr-defined]
    construct.__doc__ = _DOCSTRING.format(
        title=f"The {name[:6]}-{name[6:]} classifier.",
        variant="",
        size="(224, 224, 3)",
        rate=f", {VARIANTS[variant].drop_path_rate}",
    )
    return checks_names(construct)


SepViTLite = _constructor("SepViTLite", "sepvit_lite", SepViT)
SepViTT = _constructor("SepViTT", "sepvit_t", SepViT)
SepViTS = _constructor("SepViTS", "sepvit_s", SepViT)
SepViTB = _constructor("SepViTB", "sepvit_b", SepViT)
