"""The few operations whose best form differs between backends.

Everything else in the model code is plain `keras.ops`.
"""

import contextlib
import contextvars
import functools
import math
import time
from collections.abc import Sequence

import keras
from keras import ops

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


def linear(dense, x):
    """`dense(x)`, computed as one product of two matrices with the bias inside.

    On rank-2 tensors TensorFlow fuses bias and GELU into the product; torch adds
    the bias inside it. A layer that is quantised is called as it is.

    Args:
        dense: A built `keras.layers.Dense` without activation.
        x: Tensor of shape (..., channels).

    Returns:
        Tensor of shape (..., dense.units).
    """
    return _on_rows(_linear_of_rows, dense, x)


def linear_gelu(dense, x):
    """`gelu(linear(dense, x))`, in one pass where the backend can.

    Args:
        dense, x: As for `linear`.

    Returns:
        Tensor of shape (..., dense.units).
    """
    return _on_rows(_linear_gelu_of_rows, dense, x)


def _on_rows(function, dense, x):
    if len(x.shape) == 2:
        return function(dense, x)
    sides = shape(x)
    rows = function(dense, reshape(x, (-1, sides[-1])))
    return reshape(rows, (-1, *sides[1:-1], dense.units))


def _linear_of_rows(dense, x):
    if dense.quantization_mode is not None:
        return dense(x)
    if keras.config.backend() == "torch":
        bias, kernel = cast(dense.bias, x.dtype), cast(dense.kernel, x.dtype)
        return _torch_product(x)(x, kernel, bias)
    if _is_half(x):
        return add_bias(ops.matmul(x, ops.cast(dense.kernel, x.dtype)), dense.bias)
    return dense(x)


def add_bias(x, bias):
    """`x + bias` along the last axis, with a gradient that is exact in half precision too.

    The CPU kernels of TensorFlow and JAX add up the gradient of a bias in the dtype of `x`, and
    a sum in bfloat16 stands still from 256 times its terms on.

    Args:
        x: Tensor of shape (..., channels).
        bias: Tensor or variable of shape (channels,).

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    if keras.config.backend() == "torch":
        return x + cast(bias, x.dtype)
    if not _is_half(x):
        return ops.add(x, bias)
    if keras.config.backend() == "tensorflow":
        return _tensorflow_add_bias(x, bias)
    return ops.cast(ops.cast(x, "float32") + ops.cast(bias, "float32"), x.dtype)


def _tensorflow_add_bias(x, bias):
    """The same with three passes less over `x` than with casts around the sum."""
    import tensorflow as tf

    @tf.custom_gradient
    def add(x, bias):
        def gradients(upstream):
            rows = tf.reshape(upstream, (-1, tf.shape(upstream)[-1]))
            return upstream, tf.reduce_sum(tf.cast(rows, tf.float32), 0)

        return tf.nn.bias_add(x, tf.cast(bias, x.dtype)), gradients

    return add(x, ops.cast(bias, "float32"))


def _is_half(x):
    return keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")


def _linear_gelu_of_rows(dense, x):
    if keras.config.backend() == "torch" and dense.quantization_mode is None:
        bias, kernel = cast(dense.bias, x.dtype), cast(dense.kernel, x.dtype)
        return _torch_product(x)(x, kernel, bias, gelu=True)
    return gelu(_linear_of_rows(dense, x))


def _torch_product(x):
    """The fastest of the forms below for a matrix x. oneDNN's is for inference on CPUs alone.

    Graphs that torch captures keep plain operators, which it fuses itself, and exporters know.
    """
    import torch

    if (
        not _is_eager_inference_on_cpu(x)
        or x.dtype not in (torch.float32, torch.bfloat16)
        or torch.is_autocast_enabled("cpu")
        or torch.are_deterministic_algorithms_enabled()  # another process might choose otherwise
        or type(x) is not torch.Tensor
        or torch._C._len_torch_dispatch_stack()  # something counts or replaces operators
    ):
        return _plain_product
    rows = 1 << min(max(len(x), 1).bit_length() - 1, 10)
    return _fastest_product(rows, x.dtype, torch.get_num_threads())


def _is_eager_inference_on_cpu(x):
    import torch

    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _plain_product(x, kernel, bias, gelu=False):
    import torch

    y = torch.addmm(bias, x, kernel)
    return torch.nn.functional.gelu(y) if gelu else y


def _inference_product(x, kernel, bias, gelu=False):
    """The same without a second tensor for GELU: large ones are given back to the system, and
    mapped anew at each call."""
    import torch

    y = torch.addmm(bias, x, kernel)
    return torch.ops.aten.gelu_(y) if gelu else y


def _onednn_product(x, kernel, bias, gelu=False):
    import torch

    # The operator that torch's compiler emits. It takes the kernel as (units, channels), and
    # copies it into an order of its own.
    activation = ("gelu", [], "none") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, kernel.t(), bias, *activation)


@functools.cache
def _fastest_product(rows, dtype, threads):
    """Measured on this processor, in up to 50 ms: torch's own products (MKL), or oneDNN's.

    oneDNN's were twice as fast on an AMD processor with AVX-512, and slower on one without and on
    Intel's. They must be faster by a quarter: on the one without they sometimes are by a tenth
    here, and never in a network, whose kernels come from memory and not from a cache.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        return _inference_product
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return _inference_product
    tensors = [torch.ones(shape, dtype=dtype) for shape in ((rows, 384), (384, 384), (384,))]
    seconds = {_inference_product: math.inf, _onednn_product: math.inf}
    for _ in range(6):  # the first of each is slower
        for product, least in seconds.items():
            start = time.perf_counter()
            product(*tensors)
            seconds[product] = min(least, time.perf_counter() - start)
    faster = seconds[_onednn_product] < 0.8 * seconds[_inference_product]
    return _onednn_product if faster else _inference_product


def call(layer, x, training):
    """`layer(x)` of a layer inside another that has the same dtype policy.

    Args:
        layer: A built layer.
        x: Its input.
        training: Whether this is a training step.
    """
    return layer(x) if training or not is_plain_call(layer, x) else layer.call(x)


def is_plain_call(layer, x):
    """Whether in inference `layer.call(x)` is all that is left of `layer(x)`: on torch alone,
    where Keras's `__call__` takes as long as what it calls for one small picture.

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
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and layer.activity_regularizer is None
        and keras.backend.standardize_dtype(x.dtype) == layer.compute_dtype
    )


def layer_norm(norm, x):
    """`norm(x)`, in fewer passes over the tensor.

    Args:
        norm: A built `keras.layers.LayerNormalization` over the last axis.
        x: Tensor of shape (..., channels).

    Returns:
        Tensor of the shape of `x`.
    """
    if keras.config.backend() == "torch":
        import torch

        # Under mixed policies gamma and beta are float32. CUDA's kernel wants one dtype and
        # computes in float32 inside; the CPU's adds up their gradients in the dtype of x.
        gamma = _tensor(norm.gamma)
        dtype = gamma.dtype if x.device.type == "cpu" else x.dtype
        gamma, beta = cast(gamma, dtype), cast(norm.beta, dtype)
        y = torch.nn.functional.layer_norm(cast(x, dtype), x.shape[-1:], gamma, beta, norm.epsilon)
        return cast(y, x.dtype)
    # Not asked on torch, whose compiler breaks graphs at a ContextVar.
    if _traced_for.get() == "litert":
        return norm(x)
    dtype = keras.backend.result_type(x.dtype, "float32")
    gamma, beta = ops.cast(norm.gamma, dtype), ops.cast(norm.beta, dtype)
    centered = ops.cast(x, dtype)
    centered = centered - ops.mean(centered, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    return ops.cast(centered * (ops.rsqrt(variance + norm.epsilon) * gamma) + beta, x.dtype)


def gelu(x):
    """Exact (erf) GELU in the form that each backend computes and exports best.

    TensorFlow's own exact GELU emits `Erfc`, which ONNX and TensorRT converters
    do not know; this form also matches the pattern that TensorFlow fuses into
    the matrix product before it. LiteRT's converter knows another product of the
    same factors, and none else, as its operator.
    """
    if keras.config.backend() == "tensorflow":
        if _traced_for.get() == "litert":
            return (0.5 * x) * (1.0 + ops.erf(x * math.sqrt(0.5)))
        return x * (0.5 * (1.0 + ops.erf(x * math.sqrt(0.5))))
    if keras.config.backend() == "torch":
        import torch

        return torch.nn.functional.gelu(x)
    return ops.gelu(x, approximate=False)


def padded_conv(conv, x, padding):
    """`conv(x)` with `padding` zeros on every side of the map.

    Args:
        conv: A built `keras.layers.Conv2D`, channels last, with valid padding.
        x: Tensor of shape (batch, height, width, channels).
        padding: Number of rows and columns to pad with.

    Returns:
        Tensor of shape (batch, new height, new width, conv.filters).
    """
    if keras.config.backend() == "torch":
        return _torch_conv(x, conv.kernel, conv.bias, stride=conv.strides, padding=padding)
    if padding:
        x = ops.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return _conv(conv, x)


def same_conv(conv, x):
    """`conv(x)`, of an odd kernel, without strides and padded to the size of the map.

    Args:
        conv: A built `keras.layers.Conv2D`, channels last, with `padding="same"`.
        x: Tensor of shape (batch, height, width, channels).

    Returns:
        Tensor of shape (batch, height, width, conv.filters).
    """
    if keras.config.backend() == "torch":
        return _torch_conv(x, conv.kernel, conv.bias, padding=conv.kernel_size[0] // 2)
    return _conv(conv, x)


def _conv(conv, x):
    if conv.bias is None or not _is_half(x):
        return conv(x)
    kernel = ops.cast(conv.kernel, x.dtype)
    y = ops.conv(x, kernel, conv.strides, conv.padding, data_format="channels_last")
    return add_bias(y, conv.bias)


def depthwise_conv3x3(x, kernel):
    """3 x 3 depthwise convolution, padded with zeros to the input's size.

    XLA's CPU backend runs a grouped convolution fifty times slower than the nine
    shifted products it stands for, which it fuses into one loop. In float32 at least, as
    it would sum the kernel's gradient in half precision otherwise.

    Args:
        x: Tensor of shape (batch, height, width, channels).
        kernel: Tensor of shape (3, 3, channels, 1).

    Returns:
        Tensor of the shape of `x`.
    """
    backend = keras.config.backend()
    if backend == "torch":
        return _torch_conv(x, kernel, None, padding=1, groups=x.shape[-1])
    if backend == "jax":
        _, height, width, _ = x.shape
        dtype = keras.backend.result_type(x.dtype, "float32")
        kernel = ops.cast(kernel, dtype)
        padded = ops.cast(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), dtype)
        y = sum(
            padded[:, row : row + height, column : column + width] * kernel[row, column, :, 0]
            for row in range(3)
            for column in range(3)
        )
        return ops.cast(y, x.dtype)
    if _is_half(x):  # of TensorFlow's kernels for CPUs not all sum in float32
        x, kernel, dtype = ops.cast(x, "float32"), ops.cast(kernel, "float32"), x.dtype
        y = ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last")
        return ops.cast(y, dtype)
    return ops.depthwise_conv(x, kernel, padding="same", data_format="channels_last")


def _torch_conv(x, kernel, bias, stride=(1, 1), padding=0, groups=1):
    """Channels-last convolution without the two copies that Keras makes around it."""
    import torch

    kernel, bias = _tensor(kernel), None if bias is None else _tensor(bias)
    if groups == 1 and _kernel_outweighs_patches(x, kernel, bias, stride, padding):
        return _conv_of_patches(x, kernel, bias, stride, padding)
    x = x.permute(0, 3, 1, 2)
    # A depthwise kernel is (height, width, channels, 1).
    kernel = kernel.permute((3, 2, 0, 1) if groups == 1 else (2, 3, 0, 1))
    dtype = x.dtype
    if dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[3] == 1:
        # oneDNN leaves parts of the kernel's gradient as the memory was.
        x, kernel = x.float(), kernel.float()
        bias = None if bias is None else bias.float()
    y = torch.nn.functional.conv2d(x, kernel, bias, stride, padding, groups=groups)
    return y.to(dtype).permute(0, 2, 3, 1)


def _kernel_outweighs_patches(x, kernel, bias, stride, padding):
    """Whether torch would take longer to bring the kernel into its order than to gather patches.

    In inference on CPUs, where the output has up to twice as many positions as channels (from
    1.1 times as fast to 8 times, at one position). Graphs that torch captures keep the
    convolution: they are for batches of any size.
    """
    import torch

    if x.dtype != torch.float32 or bias is None or not _is_eager_inference_on_cpu(x):
        return False
    batch, *sides, _ = x.shape
    height, width = (
        (side + 2 * padding - extent) // step + 1
        for side, extent, step in zip(sides, kernel.shape, stride, strict=False)
    )
    return batch * height * width <= 2 * kernel.shape[3]


def _conv_of_patches(x, kernel, bias, stride, padding):
    """The convolution as a product of its patches with the kernel as it lies in memory."""
    import torch

    height, width, channels, filters = kernel.shape
    if padding:
        x = torch.nn.functional.pad(x, (0, 0, padding, padding, padding, padding))
    # (batch, rows, columns, channels, height, width)
    patches = x.unfold(1, height, stride[0]).unfold(2, width, stride[1])
    rows = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, height * width * channels)
    y = torch.addmm(bias, rows, kernel.reshape(-1, filters))
    return y.reshape(*patches.shape[:3], filters)


def attention(query, key, value):
    """Scaled dot-product attention, with its softmax in float32.

    Args:
        query: Tensor of shape (heads, batch, queries, head_dim).
        key: Tensor of shape (heads, batch, keys, head_dim).
        value: Tensor of shape (heads, batch, keys, value_dim).

    Returns:
        Tensor of shape (heads, batch, queries, value_dim).
    """
    if keras.config.backend() == "torch":
        return _torch_attention(query, key, value)
    scores = _scores(query, key)
    if keras.config.backend() == "jax" and value.dtype != "float16":
        # Dividing after the product saves a pass over the weights under XLA. In float16 the
        # product of many windows would overflow.
        largest = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
        weights = ops.exp(scores - largest)
        total = ops.sum(weights, axis=-1, keepdims=True)
        mixed = ops.matmul(ops.cast(weights, value.dtype), value)
        return ops.cast(ops.cast(mixed, "float32") / total, value.dtype)
    return ops.matmul(ops.cast(_softmax(scores), value.dtype), value)


def _torch_attention(query, key, value):
    import torch

    fused = torch.nn.functional.scaled_dot_product_attention
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # Up to twice as fast as torch's fused kernel for CPUs.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        return torch.softmax(scores, dim=-1) @ value
    if value.shape[-1] == query.shape[-1]:
        # The fused kernel wants heads after the batch, and writes them after the tokens,
        # where the projection will need them.
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        return fused(query, key, value).transpose(0, 1)
    return fused(query, key, value)


def attention_weights(query, key):
    """The weights of `attention`: (heads, batch, queries, keys), float32."""
    return _softmax(_scores(query, key))


def _scores(query, key):
    scores = ops.matmul(query * query.shape[-1] ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
    return ops.cast(scores, "float32")


def _softmax(scores):
    if scores.shape[-1] == 1:
        return ops.exp(scores - scores)  # Keras warns about a softmax over one score
    return ops.softmax(scores, axis=-1)


def uniform(shape, generator):
    """`keras.random.uniform(shape, seed=generator)`, in graphs of torch's compiler too."""
    if keras.config.backend() == "torch":
        import torch

        if torch.compiler.is_compiling():
            seed = generator.state.value.clone()
            generator.state.assign(seed + torch.arange(2, dtype=seed.dtype, device=seed.device))
            return torch.ops.keras_sepvit.uniform(seed, shape)
    return keras.random.uniform(shape, dtype="float32", seed=generator)


if keras.config.backend() == "torch":
    import torch

    @torch.library.custom_op("keras_sepvit::uniform", mutates_args=())
    def _torch_uniform(seed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Keras's draw, as one operator: a graph cannot hold a generator."""
        generator = torch.Generator(seed.device)
        generator.manual_seed(int(seed.sum()) & 0xFFFFFFFF)
        return torch.rand(shape, generator=generator, device=seed.device)

    @_torch_uniform.register_fake
    def _(seed, shape):
        return seed.new_empty(shape, dtype=torch.float32)


def split_heads(x, num_heads):
    """(batch, tokens, channels) to (heads, batch, tokens, head_dim)."""
    _, tokens, channels = shape(x)
    x = reshape(x, (-1, tokens, num_heads, channels // num_heads))
    return transpose(x, (2, 0, 1, 3))


def merge_heads(x):
    """(heads, batch, tokens, head_dim) to (batch, tokens, channels)."""
    heads, _, tokens, head_dim = shape(x)
    return reshape(transpose(x, (1, 2, 0, 3)), (-1, tokens, heads * head_dim))


# The operations of `keras.ops` of the same names that blocks are made of. On torch they are the
# tensor's own: Keras looks for symbolic tensors in the arguments of each call, which for one small
# picture takes longer than all arithmetic.


def shape(x):
    """`ops.shape(x)`."""
    return x.shape if keras.config.backend() == "torch" else ops.shape(x)


def reshape(x, shape):
    """`ops.reshape(x, shape)`."""
    return x.reshape(shape) if keras.config.backend() == "torch" else ops.reshape(x, shape)


def transpose(x, axes):
    """`ops.transpose(x, axes)`; of symbolic tensors too, for windows in functional models."""
    if keras.config.backend() == "torch" and not isinstance(x, keras.KerasTensor):
        return x.permute(axes)
    return ops.transpose(x, axes)


def split(x, parts, axis):
    """`ops.split(x, parts, axis)`, into so many equal parts."""
    return x.chunk(parts, axis) if keras.config.backend() == "torch" else ops.split(x, parts, axis)


def zeros_like(x):
    """`ops.zeros_like(x)`."""
    return x.new_zeros(x.shape) if keras.config.backend() == "torch" else ops.zeros_like(x)


def concatenate(parts, axis):
    """`ops.concatenate(parts, axis)`."""
    if keras.config.backend() == "torch":
        import torch

        return torch.cat(parts, axis)
    return ops.concatenate(parts, axis)


def cast(x, dtype):
    """`ops.cast(x, dtype)` of a tensor or a variable to the dtype of another tensor."""
    if keras.config.backend() == "torch":
        x = _tensor(x)
        return x if x.dtype == dtype else x.to(dtype)
    return ops.cast(x, dtype)


def _tensor(x):
    """The tensor of a variable; of a layer with an adapter (`enable_lora`) a kernel is one."""
    return x.value if isinstance(x, keras.Variable) else x
