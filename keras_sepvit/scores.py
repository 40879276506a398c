"""How a Keras classifier takes images and gives scores, whichever way it was made."""

import keras
import numpy as np


def normalizes_images(model):
    """Whether a model takes images of 0..255, having a layer that normalises them."""
    return any(
        isinstance(layer, keras.layers.Normalization | keras.layers.Rescaling)
        or (isinstance(layer, keras.Model) and normalizes_images(layer))
        for layer in model.layers
    )


def final_activation(model):
    """`"softmax"`, `"sigmoid"` or `"linear"` of a classifier's head; None for other layers."""
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        return final_activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    activation = getattr(last, "activation", None)
    for name in ("softmax", "sigmoid"):
        if activation is getattr(keras.activations, name):
            return name
    is_head = isinstance(last, keras.layers.Dense) and activation is keras.activations.linear
    return "linear" if is_head else None


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


def probabilities(model, outputs):
    """The outputs of a classifier as float32 probabilities; logits get a softmax.

    Those of a sigmoid, for classes that do not exclude each other, stay as they are.
    """
    outputs = np.asarray(outputs, "float32")
    if final_activation(model) in ("softmax", "sigmoid"):
        return outputs
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
