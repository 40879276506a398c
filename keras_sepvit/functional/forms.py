"""Which form of an operation is asked for: that of a converter, for which a model is traced."""

import contextlib
import contextvars

import keras

_traced_for = contextvars.ContextVar("traced_for", default=None)


@contextlib.contextmanager
def forms_for(converter):
    """While a model is traced inside, operations take the forms that a converter knows.

    Args:
        converter: `"litert"`, TensorFlow's own, or `"tf2onnx"`.
    """
    token = _traced_for.set(converter)
    try:
        yield
    finally:
        _traced_for.reset(token)


def converter():
    """The converter for which a model is traced: one of `forms_for`, `"torch"` for PyTorch's
    exporter to ONNX, or None."""
    if keras.config.backend() == "torch":
        import torch

        return "torch" if torch.onnx.is_in_onnx_export() else None
    return _traced_for.get()
