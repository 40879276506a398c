"""MACs counted in a model's graph: SepViT's against its formulas, and each kind of operator."""

import dataclasses
import math

import keras
import pytest
from helpers import BACKEND, TINY
from keras import layers, ops

from keras_sepvit import SepViT, SepViTBackbone, complexity
from keras_sepvit.complexity.graph import traced_macs
from keras_sepvit.detection import MaskRCNN, RetinaNet
from keras_sepvit.segmentation import SemanticFPN, UPerNet

ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="a graph of TensorFlow")
ON_JAX = pytest.mark.skipif(BACKEND != "jax", reason="a graph of JAX")
ON_TORCH = pytest.mark.skipif(BACKEND != "torch", reason="modules of torch")


def products(result):
    """The products in the graph of a SepViT: under JAX, the PEG is no convolution there."""
    pegs = sum(
        cost.macs
        for stage in result.stages
        for name, cost in stage.layers.items()
        if name.endswith("_peg")
    )
    return result.cost.macs_with_attention - (pegs if BACKEND == "jax" else 0)


@pytest.mark.parametrize("image_size", [(64, 64), (128, 64)])
def test_sepvit(image_size):
    model = SepViT(TINY, input_shape=(*image_size, 3), classes=10)
    result = complexity.sepvit(TINY, image_size, classes=10)
    assert traced_macs(model, (*image_size, 3)) == products(result)


@pytest.mark.parametrize("window_tokens", ["zeros", "average_pooling"])
def test_dense_form(window_tokens):
    config = dataclasses.replace(TINY, window_tokens=window_tokens)
    model = SepViTBackbone.from_variant(config, (70, 111, 3), dense=True)
    result = complexity.sepvit(config, (70, 111), dense=True)
    assert traced_macs(model, (70, 111, 3)) == products(result)


@pytest.mark.parametrize("network", [SemanticFPN, UPerNet])
def test_segmenters(network):
    model = network(TINY, 5, (70, 111, 3), head_channels=12)
    formula = {SemanticFPN: complexity.semantic_fpn, UPerNet: complexity.upernet}[network]
    result = formula(TINY, (70, 111), 5, head_channels=12)
    assert traced_macs(model, (70, 111, 3)) == products(result)
    weights = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert result.cost.parameters == weights


@pytest.mark.thorough
@pytest.mark.parametrize(
    "network, formula, options",
    [
        (RetinaNet, complexity.retinanet, {}),
        (MaskRCNN, complexity.mask_rcnn, {"units": 10, "proposals": 30, "max_detections": 7}),
    ],
)
def test_detectors(network, formula, options):
    options = {"channels": 12, "num_convs": 2, **options}
    model = network(TINY, 5, image_shape=(70, 111, 3), **options)
    result = formula(TINY, (70, 111), 5, **options)
    assert traced_macs(model, (70, 111, 3)) == products(result)
    assert result.cost.parameters == model.count_params()


def test_padded_windows():
    model = SepViT(TINY, input_shape=(70, 111, 3), classes=10, pad_windows=True)
    result = complexity.sepvit(TINY, (70, 111), classes=10, pad_windows=True)
    assert traced_macs(model, (70, 111, 3)) == products(result)


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["sepvit_lite", "sepvit_t"])
def test_variants(variant):
    counted = traced_macs(SepViT(variant))
    assert counted == pytest.approx(complexity.sepvit(variant).cost.macs_with_attention, rel=0.01)


@pytest.mark.thorough
def test_dense_variant():
    model = SepViTBackbone.from_variant("sepvit_t", (256, 320, 3), dense=True)
    cost = complexity.sepvit("sepvit_t", (256, 320), dense=True).cost
    assert traced_macs(model, (256, 320, 3)) == pytest.approx(cost.macs_with_attention, rel=0.01)


class Product(layers.Layer):
    """A layer that computes one function of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def model_of(layer):
    if not isinstance(layer, layers.Layer):
        layer = Product(layer)
    x = keras.Input(batch_shape=(1, *IMAGE))
    return keras.Model(x, layer(x))


IMAGE = (6, 8, 4)
PIXELS, SIDE = 48, 4  # positions and channels


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (layers.Conv2D(10, 3, padding="same"), PIXELS * 9 * SIDE * 10),
        (layers.Conv2D(10, 2, strides=2, groups=2), 12 * 4 * 2 * 10),
        (layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), PIXELS * 9 * 8),
        (layers.SeparableConv2D(10, 3, padding="same"), PIXELS * (9 * SIDE + SIDE * 10)),
        (layers.Dense(10), PIXELS * SIDE * 10),
        (layers.EinsumDense("bhwc,cde->bhwde", (None, None, 2, 5)), PIXELS * SIDE * 10),
        (lambda x: ops.einsum("b...ic,b...jc->b...ij", x, x), 6 * 8 * 8 * SIDE),
        (lambda x: ops.einsum("bhwc->bhw", x), 0),
        (lambda x: ops.matmul(ops.transpose(x, (0, 1, 3, 2)), x), 6 * SIDE * SIDE * 8),
        (lambda x: x * ops.mean(x, axis=-1, keepdims=True), 0),
        (layers.GlobalAveragePooling2D(), 0),
    ],
    ids=lambda value: value.name if isinstance(value, layers.Layer) else None,
)
def test_layers(layer, macs):
    assert traced_macs(model_of(layer), IMAGE) == macs


def test_fused_attention():
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    x = keras.Input((PIXELS, SIDE))
    model = keras.Model(x, attention(x, x))
    image = keras.Input(IMAGE)
    model = keras.Model(image, model(layers.Reshape((PIXELS, SIDE))(image)))
    assert traced_macs(model, IMAGE) == 4 * PIXELS * SIDE * 6 + 2 * PIXELS**2 * 6


@ON_TENSORFLOW
def test_tensorflow_functions():
    import tensorflow as tf

    square = tf.function(lambda x: tf.matmul(x, x, transpose_b=True), jit_compile=True)
    nested = tf.function(lambda x: square(x) + square(x))
    assert traced_macs(model_of(nested), IMAGE) == 2 * 6 * 8 * 8 * SIDE


@ON_TENSORFLOW
@pytest.mark.parametrize("operator", ["StatelessWhile", "EagerPyFunc", "Conv2DBackpropInput"])
def test_tensorflow_refuses(operator):
    import tensorflow as tf

    def square(x):
        return tf.matmul(x, x, transpose_b=True)

    function = {
        "StatelessWhile": lambda x: tf.while_loop(
            lambda y: tf.reduce_sum(y) > 0, lambda y: [square(y)[..., :SIDE] * 0], [x]
        ),
        "EagerPyFunc": lambda x: tf.ensure_shape(
            tf.py_function(square, [x], "float32"), (1, 6, 8, 8)
        ),
        "Conv2DBackpropInput": lambda x: tf.nn.conv2d_transpose(
            x, tf.ones((2, 2, 3, SIDE)), (1, 12, 16, 3), 2
        ),
    }[operator]
    with pytest.raises(ValueError, match=operator):
        traced_macs(model_of(function), IMAGE)


@ON_TENSORFLOW
def test_tensorflow_refuses_dynamic_shapes():
    import tensorflow as tf

    def masked(x):
        x = tf.boolean_mask(tf.reshape(x, (PIXELS, SIDE)), tf.reshape(x[..., 0] > 0, (PIXELS,)))
        return tf.matmul(x, x, transpose_a=True)

    with pytest.raises(ValueError, match="MatMul.*not static"):
        traced_macs(model_of(masked), IMAGE)


@ON_JAX
def test_jax_calls():
    import jax

    @jax.jit
    def square(x):
        return x @ x.swapaxes(-1, -2)

    def function(x):
        y = jax.lax.scan(lambda y, _: (y @ y, None), square(x), None, length=3)[0]
        y = jax.lax.cond(y.sum() > 0, jax.checkpoint(square), square, y)
        return jax.nn.silu(y)

    assert traced_macs(model_of(function), IMAGE) == 6 * 8 * 8 * (SIDE + 3 * 8 + 8)


@ON_JAX
@pytest.mark.parametrize("operator", ["while", "cond", "pure_callback", "conv_general_dilated"])
def test_jax_refuses(operator):
    import jax

    def square(x):
        return x @ x.swapaxes(-1, -2)

    function = {
        "while": lambda x: jax.lax.while_loop(lambda y: y.sum() > 0, square, square(x)),
        "cond": lambda x: jax.lax.cond(x.sum() > 0, lambda y: y @ y, lambda y: y, square(x)),
        "pure_callback": lambda x: jax.pure_callback(lambda y: y, x, x),
        "conv_general_dilated": lambda x: jax.lax.conv_transpose(
            x, jax.numpy.ones((2, 2, SIDE, 3)), (2, 2), "SAME"
        ),
    }[operator]
    with pytest.raises(ValueError, match=operator):
        traced_macs(model_of(function), IMAGE)


@ON_TORCH
def test_torch_module():
    """A module of plain torch, with a structure as output; its state stays as it was."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(SIDE, 8, 3, padding=1, groups=2)
            self.norm = torch.nn.BatchNorm2d(8)
            self.linear = torch.nn.Linear(8, 5)

        def forward(self, pixel_values):
            x = self.norm(self.conv(pixel_values)).flatten(2).transpose(1, 2)
            x = torch.nn.functional.scaled_dot_product_attention(x, x, x)
            return {"logits": self.linear(x.mean(1)), "hidden": (x,)}

    network = Network().to(torch.bfloat16)
    network.linear.eval()
    macs = traced_macs(network, IMAGE, channels_first=True)
    assert macs == PIXELS * 9 * 2 * 8 + 2 * PIXELS**2 * 8 + 8 * 5
    assert network.training and network.norm.training and not network.linear.training
    assert network.norm.num_batches_tracked == 0


@ON_TORCH
def test_torch_refuses():
    import torch

    with pytest.raises(ValueError, match="aten.*mv"):
        traced_macs(model_of(lambda x: torch.mv(x[0, 0], x[0, 0, 0])), IMAGE)


@pytest.mark.parametrize("image_shape", [(64, 64), (0, 64, 3), (64, 64.5, 3), (None, 64, 3)])
def test_bad_image_shape(image_shape):
    with pytest.raises(ValueError, match="image_shape"):
        traced_macs(model_of(layers.Dense(2)), image_shape)


@pytest.mark.once
def test_bad_model():
    with pytest.raises(TypeError, match="builtins.str"):
        traced_macs("sepvit_t")
