"""How a Keras classifier takes images and gives scores, whichever way it was made."""

import keras
import numpy as np

from keras_sepvit.validation import check_choice

# What may be put on a classifier's outputs; none where they are probabilities already.
_OF_PROBABILITIES = ("softmax", "sigmoid")
ACTIVATIONS = (*_OF_PROBABILITIES, "none")
_ANY_SIDE = 64  # in pixels, of pictures for a model that takes any size


def normalizes_images(model):
    """Whether a model takes images of 0..255, having a layer that normalises them."""
    return any(
        isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling)
        or (isinstance(layer, keras.Model) and normalizes_images(layer))
        for layer in model.layers
    )


def final_activation(model):
    """`"softmax"`, `"sigmoid"` or `"linear"` of a classifier's outputs; None where not known.

    The last layer tells; where it does not (an average of models, a function of the user's),
    the outputs for a batch of random pictures do.
    """
    last = _last_layer(model.outputs[0])
    if isinstance(last, keras.Model):
        return final_activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    activation = getattr(last, "activation", None)
    for name in _OF_PROBABILITIES:
        if activation is getattr(keras.activations, name):
            return name
    if isinstance(last, keras.layers.Dense) and activation is keras.activations.linear:
        return "linear"
    return _activation_by_values(model)


def _last_layer(output):
    """The layer that a Keras tensor is of, but for those that change nothing in inference."""
    layer, node, _ = output._keras_history
    unchanged = isinstance(layer, keras.layers.Identity | keras.layers.Dropout) or (
        isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear
    )
    return _last_layer(layer._inbound_nodes[node].input_tensors[0]) if unchanged else layer


def _activation_by_values(model):
    shape = model.inputs[0].shape
    if len(model.inputs) != 1 or len(shape) != 4 or len(model.outputs[0].shape) != 2:
        return None
    pictures = np.random.default_rng(0).standard_normal((8, *(n or _ANY_SIDE for n in shape[1:])))
    if normalizes_images(model):
        pictures = np.clip(128 + 64 * pictures, 0, 255)
    values = np.asarray(model.predict(pictures.astype("float32"), verbose=0), "float32")
    if not ((values >= 0) & (values <= 1)).all():
        return None
    sums_of_one = values.shape[-1] > 1 and np.allclose(values.sum(axis=-1), 1, atol=1e-2)
    return "softmax" if sums_of_one else "sigmoid"


def activations(model, activation=None):
    """What a classifier's probabilities are of, and what makes them of its outputs.

    Args:
        model: The classifier. Of logits, its `record` may tell.
        activation: What the user says makes them, one of `ACTIVATIONS`, or None.

    Returns:
        `"softmax"` or `"sigmoid"`, and one of `ACTIVATIONS`.

    Raises:
        ValueError: for another `activation`.
    """
    if activation is not None:
        check_choice("activation", activation, ACTIVATIONS)
    if activation in _OF_PROBABILITIES:
        return activation, activation
    found = final_activation(model)
    if found in _OF_PROBABILITIES:
        return found, "none"
    recorded = getattr(getattr(model, "record", None), "activation", None)
    if activation == "none":
        return recorded or "sigmoid", "none"  # a sigmoid's stand each for itself
    missing = recorded or ("sigmoid" if model.outputs[0].shape[-1] == 1 else "softmax")
    return missing, missing


def preprocess(model, images):
    """Images of 0..255 as the model takes them: normalised, unless it does that itself.

    Args:
        model: The classifier.
        images: Array of shape (batch, height, width, channels).

    Raises:
        ValueError: for grey images, whose normalisation only the model knows.
    """
    if normalizes_images(model):
        return images
    if images.shape[-1] != 3:
        raise ValueError(
            "The model takes grey images and has no Normalization or Rescaling layer, so the "
            "range of its input is not known. Put such a layer in front of it."
        )
    return keras.applications.imagenet_utils.preprocess_input(
        images.astype("float32"), data_format="channels_last", mode="torch"
    )


def probabilities(outputs, activation):
    """The outputs of a classifier as float32 probabilities, by one of `ACTIVATIONS`."""
    outputs = np.asarray(outputs, "float32")
    if activation == "none":
        return outputs
    if activation == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * outputs))  # without an overflow
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
