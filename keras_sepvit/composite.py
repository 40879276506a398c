"""Base classes of layers that have layers in them, and what they know of the model that runs."""

import contextlib
import threading
from typing import Any

import keras
from keras import layers

from keras_sepvit import functional
from keras_sepvit.initializers import TruncatedNormal


class _Running(threading.local):
    """What is known of the model that runs. At a ContextVar torch's graphs break."""

    def __init__(self):
        self.draw = None  # its `_SharedDraw`, in training
        self.inference_dtype = None  # in inference the dtype that it computes in

    @contextlib.contextmanager
    def set(self, draw=None, inference_dtype=None):
        outer = self.draw, self.inference_dtype
        self.draw, self.inference_dtype = draw, inference_dtype
        try:
            yield
        finally:
            self.draw, self.inference_dtype = outer


running = _Running()


def inference(dtype):
    """While a model runs inside, its composite layers know that this is no training.

    Args:
        dtype: The dtype that the model computes in.
    """
    return running.set(inference_dtype=dtype)


class CompositeLayer(layers.Layer):
    """A layer of layers, whose configuration says which of them are quantised.

    All layers in it are made by `part` or `dense`.
    """

    def __call__(self, *args, **kwargs):
        if (
            running.inference_dtype == self.compute_dtype
            and len(args) == 1
            and not kwargs
            and functional.is_plain_call(self, args[0])
        ):
            return self.call(*args)  # what is left of Keras's way
        return super().__call__(*args, **kwargs)

    def part(self, layer_class, *args, dtype=None, **kwargs):
        """A layer in this one: of its dtype policy, and frozen where it is made frozen."""
        dtype = dtype or self.dtype_policy
        with keras.RematScope(mode=None):  # this layer is recomputed as a whole, or not at all
            return layer_class(*args, dtype=dtype, trainable=self.trainable, **kwargs)

    def dense(self, units, name, initializer=None):
        """A `Dense` layer, to be made in `build`; by default with the authors' initialisation."""
        policy = self.dtype_policy
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
            # Its own alone: Keras cannot save a quantised layer that has the map.
            policy = policy[f"{self.path}/{name}"]
        return self.part(
            layers.Dense,
            units,
            kernel_initializer=initializer or TruncatedNormal(),
            dtype=policy,
            name=name,
        )

    def get_config(self):
        return {**super().get_config(), "dtype": dtype_config(self)}


def dtype_config(layer):
    """The `dtype` in the configuration of a layer or model: its policy.

    With layers in it that are quantised it is a map of their paths to their policies, by
    which they are built as such again.
    """
    if not layer.built:
        return keras.dtype_policies.serialize(layer.dtype_policy)
    policy = _own_policy(layer)
    policies = {
        inner.path: _own_policy(inner)
        for inner in layer._flatten_layers(include_self=False)
        if inner.quantization_mode is not None
    }
    if policies:
        policy = keras.dtype_policies.DTypePolicyMap(policy.name, policies)
    return keras.dtype_policies.serialize(policy)


def _own_policy(layer):
    """A built layer's policy, of a map that it shares with others its own."""
    policy = layer.dtype_policy
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy[layer.path or ""]
    return policy


class ResidualLayer(CompositeLayer):
    """A layer that adds to its input, in the compute dtype or, if told so, in float32."""

    def __init__(self, residual_in_fp32: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.residual_in_fp32 = bool(residual_in_fp32)

    @property
    def input_dtype(self):
        """The dtype that Keras converts inputs to, and that of the output."""
        if self.residual_in_fp32:
            return keras.backend.result_type(self.compute_dtype, "float32")
        return self.compute_dtype

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, dtype=self.input_dtype)

    def get_config(self):
        return {**super().get_config(), "residual_in_fp32": self.residual_in_fp32}
