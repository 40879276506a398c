"""What torch can leave out where it runs operator by operator."""

import keras


def call(layer, x):
    """`layer(x)` of a layer inside another that has the same dtype policy.

    Args:
        layer: A built layer, which does the same in training and in inference.
        x: Its input.
    """
    return layer.call(x) if is_plain_call(layer, x) else layer(x)


def is_plain_call(layer, x):
    """Whether `layer.call(x)` is all that is left of `layer(x)`: on torch alone, where Keras's
    `__call__` takes as long as what it calls for one small picture.

    Args:
        layer: A layer, called in another that has the same dtype policy.
        x: Its input.
    """
    if keras.config.backend() != "torch":
        return False
    import torch

    return (
        isinstance(x, torch.Tensor)
        and x.device.type != "meta"  # where Keras asks for shapes
        and layer.built
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and not (layer._backward_hooks or layer._backward_pre_hooks)
        and layer.activity_regularizer is None
        and keras.backend.standardize_dtype(x.dtype) == layer.compute_dtype
    )


def is_eager_on_cpu(x):
    """Whether torch runs operators on a tensor of the CPU as they come."""
    import torch

    return (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    )


def is_eager_inference_on_cpu(x):
    """Whether it does so without gradients."""
    import torch

    return is_eager_on_cpu(x) and not torch.is_grad_enabled()
