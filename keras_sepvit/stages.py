"""What models of the four stages have in common."""

import functools
import sys
from typing import Any

import keras

from keras_sepvit.block import SepViTBlock
from keras_sepvit.composite import inference
from keras_sepvit.geometry import STRIDES
from keras_sepvit.layers import one_draw
from keras_sepvit.names import stage_of
from keras_sepvit.scores import normalizes_images
from keras_sepvit.validation import check_choice
from keras_sepvit.warn import warn_if_normalised

# Of arrays, the images of `fit` that are looked at.
_FIRST = 32


class ImageModelMixin:
    """What models of images share that have blocks: see `check_images` and `one_draw`.

    Stands in front of `keras.Model` among the bases of a class.
    """

    layers: list[keras.Layer]
    compute_dtype: str
    _shape_argument = "image_shape"  # of the constructor
    _compiled_call: Any = None

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        check_images(self, inputs)
        call = super().__call__  # type: ignore[misc]
        if self._should_compile_call(inputs):
            if self._compiled_call is None:
                import torch

                self._compiled_call = torch.compile(call)
            call = self._compiled_call
        return call(inputs, *args, **kwargs)

    def _should_compile_call(self, inputs):
        if keras.config.backend() != "torch":
            return False
        import torch

        return (
            not torch.compiler.is_compiling()
            and self.jit_compile  # type: ignore[attr-defined]
            and isinstance(inputs, torch.Tensor)
            and inputs.device.type != "meta"  # where Keras asks for shapes
        )

    def make_train_function(self, force: bool = False) -> Any:
        """Builds the optimizer before the first step of TensorFlow, which it would trace twice if
        that made variables: half of the time until then."""
        optimizer = getattr(self, "optimizer", None)
        if (
            keras.config.backend() == "tensorflow"
            and optimizer is not None
            and not optimizer.built
            and self.built  # type: ignore[attr-defined]
        ):
            with self.distribute_strategy.scope():  # type: ignore[attr-defined]
                optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]
        return super().make_train_function(force)  # type: ignore[misc]

    def _should_torch_compile(self):
        """Not the whole step, as Keras would: loss, metrics and optimizer break its graph.

        With `jit_compile=True` the network alone is compiled, which makes one graph.
        """
        return False

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        check_images(self, inputs)  # JAX's `predict` and `fit` come here by another way
        if training:
            blocks = (layer for layer in self.layers if isinstance(layer, SepViTBlock))
            # Each for the two branches of its block.
            running = one_draw([block.drop_path for block in blocks], calls=2)
        else:
            running = inference(self.compute_dtype)
        with running:
            # Layers know when this is no training, and are called faster without being told again.
            return self._compute(inputs, training=training or None, mask=mask, **kwargs)

    def _compute(self, inputs, **kwargs):
        return super().call(inputs, **kwargs)  # type: ignore[misc]

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """`layer_call` itself: under `keras.RematScope` the model's layers are recomputed, one by
        one, and not all of it at once, which would save nothing."""
        return layer_call

    @functools.wraps(keras.Model.fit)
    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        if len(getattr(x, "shape", ())) == 4:
            self._check_first(keras.ops.convert_to_numpy(x[:_FIRST]), y)
        elif (tf := sys.modules.get("tensorflow")) and isinstance(x, tf.data.Dataset):
            x = _watched(x, self._check_first)
        return super().fit(x, y, *args, **kwargs)  # type: ignore[misc]

    def _check_first(self, images, targets):
        """Warns of what cannot be right in the first images of `fit`.

        Args:
            images: Array.
            targets: As `fit` is given them; of these images, and maybe of others behind them.
        """
        if normalizes_images(self):
            warn_if_normalised(images)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras's, also for files of another backend, and classes with a `compile` of their own.

        TensorFlow and JAX write `jit_compile=True`, their default; on torch it would have the
        compiler at work for minutes, unasked.
        """
        config = keras.saving.deserialize_keras_object(config)
        if keras.config.backend() == "torch":
            config["jit_compile"] = False
        self.compile(**config)  # type: ignore[attr-defined]
        if self.built:  # type: ignore[attr-defined]
            self.optimizer.build(self.trainable_variables)  # type: ignore[attr-defined]


def argument(name: str) -> Any:
    """A read-only attribute: the argument of this name that a model was made with."""
    return property(lambda model: model._config[name], doc=f"`{name}`, as it was given.")


def _watched(data, check):
    """A `tf.data.Dataset` whose first batch is given to a function as it passes.

    Not taken from it before: that would fill its buffers twice, and shuffle it otherwise.
    """
    import tensorflow as tf

    specs = data.element_spec[:2] if isinstance(data.element_spec, tuple) else ()
    flat = tf.nest.flatten(specs)
    plain = all(isinstance(spec, tf.TensorSpec) for spec in flat)
    if len(specs) < 2 or not plain or tf.distribute.has_strategy():
        return data
    unseen = [check]

    def look(*arrays):
        if unseen:
            unseen.pop()(*tf.nest.pack_sequence_as(specs, arrays))

    def passing(number, batch):
        arrays = tf.nest.flatten(batch[:2])
        tf.cond(number == 0, lambda: tf.group(tf.numpy_function(look, arrays, [])), tf.no_op)
        return batch

    return data.enumerate().map(passing)


class StagesMixin(ImageModelMixin):
    """What models of the four stages share, with a head or without: the pyramid, and freezing."""

    def freeze(self, stages: int) -> None:
        """Keeps the weights of the first stages as they are in training, and trains the others.

        Call it before `compile`.

        Args:
            stages: How many stages, from 0 to 4; 0 undoes it.

        Raises:
            ValueError: for another number.
        """
        check_choice("stages", stages, range(len(STRIDES) + 1))
        for layer in self.layers:
            stage = stage_of(layer.name)
            if stage is not None:
                layer.trainable = stage > stages

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """The stages' outputs: `KerasTensor`s by level, `"P2"` to `"P5"`."""
        stages = ((stage_of(layer.name), layer) for layer in self.layers)
        # A stage's last layer, since later ones replace earlier ones.
        return {f"P{stage + 1}": layer.output for stage, layer in stages if stage is not None}


def frozen_layers(model, layers):
    """What a model's configuration says of its frozen layers, beside `trainable`.

    Args:
        model: The model.
        layers: Its layers.

    Returns:
        Dict of `frozen_layers`, their names; empty where `trainable` tells all.
    """
    frozen = [layer.name for layer in layers if not layer.trainable]
    told = [] if model.trainable else [layer.name for layer in layers]
    return {} if frozen == told else {"frozen_layers": frozen}


def freeze_layers(model, layers, names=None):
    """Freezes layers as a configuration says.

    Args:
        model: The model.
        layers: Its layers. Keras itself does not reach them where it is made with
            `trainable=False`: they train in a model around it.
        names: `frozen_layers` of the configuration; None where `trainable` tells all.
    """
    if names is not None or not model.trainable:
        for layer in layers:
            layer.trainable = names is not None and layer.name not in names


def check_images(model, images):
    """Refuses images, arrays or tensors, of another shape than a model's."""
    expected, shape = getattr(model, "input_shape", None), getattr(images, "shape", None)
    # Other inputs and unknown ranks are left to Keras.
    if not isinstance(expected, tuple) or shape is None or getattr(shape, "rank", 0) is None:
        return
    shape = tuple(shape)
    differing = [
        axis
        for axis, (side, other) in enumerate(zip(expected, shape, strict=False))
        if None not in (side, other) and side != other
    ]
    if len(shape) == len(expected) and not differing:
        return
    channels = expected[-1]
    if shape == expected[1:]:
        advice = "Put the axis of the batch in front: images[None]."
    elif len(shape) != len(expected):
        advice = "The axes are (batch, height, width, channels)."
    elif shape[1] == channels != shape[-1]:
        advice = "Move the channels to the end: keras.ops.moveaxis(images, 1, -1)."
    elif shape[-1] == 1 and channels == 3:
        advice = "Make RGB of grey: keras.ops.repeat(images, 3, axis=-1)."
    elif shape[-1] == 4 and channels == 3:
        advice = "Leave out the channel of transparency: images[..., :3]."
    elif shape[-1] == channels and None not in shape[1:]:
        advice = (
            f"Resize them with keras.layers.Resizing{expected[1:3]}, or build the model with "
            f"{model._shape_argument}={shape[1:]}."
        )
    else:
        advice = "The axes are (batch, height, width, channels)."
    raise ValueError(
        f"Model `{model.name}` takes images of shape {expected}. Received: {shape}. {advice}"
    )
