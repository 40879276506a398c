"""Multiply-accumulates (MACs) in the graph of a built model, whatever its architecture.

What `keras_sepvit.complexity` says by formula, counted: both products of each
attention are in, as in `Cost.macs_with_attention`.
"""

import functools
import math
import re
import sys

from keras_sepvit.validation import positive_int

# Operators that may hold matrix products and are not known here.
_UNKNOWN_IN_TENSORFLOW = re.compile("MatMul|Conv(?!ert)|Einsum|Dot|CustomCall|PyFunc|RNN|LSTM|GRU")
_UNKNOWN_IN_JAX = re.compile("dot|conv(?!ert)|attention|custom_call|ffi|pallas|(pure|io)_callback")
_UNKNOWN_IN_TORCH = re.compile(
    "mm$|mv$|dot$|(?<!sample_bi)(?<!sample_tri)linear|matmul|conv(?!ert)|attention|encoder_layer"
    "|lstm|gru|rnn"
)
_JAX_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call")
_JAX_CALLS += ("checkpoint", "remat", "remat2")


def traced_macs(model, image_shape=(224, 224, 3), channels_first=False):
    """Counts the multiply-accumulates of a model's matrix products and convolutions.

    The model is traced for one image, in inference: on TensorFlow as a concrete
    function and on JAX as a jaxpr, where nothing is computed; on torch it runs on
    an image of zeros, with attention as two products.

    Only matrix products and convolutions count. What a model writes as
    multiplications and additions is therefore missing: under JAX, the positional
    encoding (PEG) of SepViT, 0.1 % of SepViT-T; on all backends, windows'
    representations by `"depthwise_conv"` (see `SepViTBlock`).

    Args:
        model: A built Keras model whose input is a batch of images, or a
            `torch.nn.Module` of any library, whose first argument is one.
        image_shape: (height, width, channels) of the image.
        channels_first: Whether the model takes images of shape (batch, channels,
            height, width).

    Returns:
        An int. One MAC is one multiplication with its addition.

    Raises:
        ValueError: for an `image_shape` that is none, and for operators whose
            products cannot be counted, such as custom calls, loops of unknown
            length and, but on torch, transposed convolutions.
        TypeError: for another kind of model.
    """
    shape = _batch_shape(image_shape, channels_first)
    keras, torch = (sys.modules.get(name) for name in ("keras", "torch"))
    if keras is not None and isinstance(model, keras.Model):
        backend = keras.config.backend()
        if backend == "tensorflow":
            return _tensorflow_macs(model, shape)
        if backend == "jax":
            return _jax_macs(model, shape)
        if backend == "torch":
            image = keras.ops.zeros(shape)
            return _torch_macs(functools.partial(model, training=False), image)
        raise ValueError(f"Graphs of the Keras backend {backend!r} cannot be counted.")
    if torch is not None and isinstance(model, torch.nn.Module):
        return _torch_module_macs(model, shape)
    raise TypeError(
        "`model` must be a built Keras model or a `torch.nn.Module`. Received: "
        f"{type(model).__module__}.{type(model).__name__}."
    )


def _batch_shape(image_shape, channels_first):
    if len(image_shape) != 3:
        raise ValueError(
            f"`image_shape` must be (height, width, channels). Received: {image_shape!r}."
        )
    height, width, channels = (positive_int("image_shape", side) for side in image_shape)
    return (1, channels, height, width) if channels_first else (1, height, width, channels)


def _unknown(operator):
    return ValueError(
        f"The graph has the operator {operator}, whose multiply-accumulates are not known. Build "
        "the model from matrix products and convolutions, without custom kernels."
    )


# TensorFlow


def _tensorflow_macs(model, shape):
    import tensorflow as tf

    traced = tf.function(lambda image: model(image, training=False), autograph=False)
    graph = traced.get_concrete_function(tf.TensorSpec(shape, "float32")).graph
    return _tensorflow_graph_macs(graph)


def _tensorflow_graph_macs(graph):
    return sum(map(_tensorflow_operator_macs, graph.get_operations()))


def _tensorflow_operator_macs(operator):
    shapes = [_static_shape(operator, tensor) for tensor in (*operator.inputs, *operator.outputs)]
    kind = operator.type
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        transposed = operator.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        return math.prod(shapes[-1]) * shapes[0][-2 if transposed else -1]
    if kind in ("Conv2D", "Conv3D"):
        return math.prod(shapes[-1]) * math.prod(shapes[1][:-1])
    if kind == "DepthwiseConv2dNative":
        return math.prod(shapes[-1]) * math.prod(shapes[1][:2])
    if kind == "Einsum" and len(operator.inputs) <= 2:
        return _einsum_macs(operator.get_attr("equation").decode(), shapes)

    inner = sum(map(_tensorflow_graph_macs, _inner_graphs(operator)))
    called_once = kind in ("PartitionedCall", "StatefulPartitionedCall")
    if _UNKNOWN_IN_TENSORFLOW.search(kind) or (inner and not called_once):
        raise _unknown(f"{kind} ({operator.name})")
    return inner


def _static_shape(operator, tensor):
    """The shape of a tensor; only products need to know all of it."""
    shape = tensor.shape
    if shape.is_fully_defined():
        return tuple(shape)
    if _UNKNOWN_IN_TENSORFLOW.search(operator.type):
        raise ValueError(
            f"The graph has the operator {operator.type} ({operator.name}) on a tensor whose shape "
            f"is not static: {shape}. Give the model's input a fixed size."
        )
    return None


def _inner_graphs(operator):
    """The graphs of the functions that an operator calls."""
    for attribute in operator.node_def.attr.values():
        for function in (attribute.func, *attribute.list.func):
            if function.name:
                yield operator.graph._get_function(function.name).graph


def _einsum_macs(equation, shapes):
    """Elements of the output, by sizes of the labels that it lacks; one operand has no product."""
    inputs, output = equation.split("->")
    if "," not in inputs:
        return 0
    sizes = {}
    for labels, shape in zip(inputs.split(","), shapes[:-1], strict=True):
        before, _, after = labels.partition("...")
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(reversed(after), reversed(shape), strict=False))
    summed = (size for label, size in sizes.items() if label not in output)
    return math.prod(shapes[-1]) * math.prod(summed)


# JAX


def _jax_macs(model, shape):
    import jax

    def forward(trainable, non_trainable, image):
        return model.stateless_call(trainable, non_trainable, image, training=False)[0]

    variables = [
        [variable.value for variable in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    image = jax.ShapeDtypeStruct(shape, "float32")
    return _jaxpr_macs(jax.make_jaxpr(forward)(*variables, image).jaxpr)


def _jaxpr_macs(jaxpr):
    return sum(map(_equation_macs, jaxpr.eqns))


def _equation_macs(equation):
    from jax.extend.core import jaxprs_in_params

    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated" and _is_plain_convolution(parameters):
        kernel = equation.invars[1].aval
        outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        return equation.outvars[0].aval.size * kernel.size // outputs

    inner = [_jaxpr_macs(getattr(jaxpr, "jaxpr", jaxpr)) for jaxpr in jaxprs_in_params(parameters)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "cond" and len(set(inner)) == 1:
        return inner[0]
    if _UNKNOWN_IN_JAX.search(name) or (any(inner) and name not in _JAX_CALLS):
        raise _unknown(name)
    return sum(inner)


def _is_plain_convolution(parameters):
    """Neither transposed nor a gradient, whose products with zeros are not computed."""
    return set(parameters["lhs_dilation"]) <= {1} and parameters["batch_group_count"] == 1


# torch


def _torch_module_macs(module, shape):
    import torch

    weight = next(module.parameters(), torch.zeros(()))
    image = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        return _torch_macs(module, image)
    finally:
        for part, mode in training.items():
            part.training = mode


def _torch_macs(forward, image):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)

    class RefuseUnknown(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            packet = operator.overloadpacket
            if packet not in counter.flop_registry and _UNKNOWN_IN_TORCH.search(packet.__name__):
                raise _unknown(f"{packet}")
            return operator(*args, **(kwargs or {}))

    # The counter sees fused attention only once it is taken apart.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), RefuseUnknown(), counter:
        forward(image)
    return counter.get_total_flops() // 2
