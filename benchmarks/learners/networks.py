"""A small SepViT, a Swin of its widths made of KerasHub's layers, and the paper's ablations."""

import keras
from keras import layers
from keras_hub.src.models.swin_transformer.swin_transformer_layers import (
    PatchEmbedding,
    PatchMerging,
    SwinTransformerStage,
)

import keras_sepvit
from keras_sepvit.layers import imagenet_normalization
from learners.pictures import SIDE

# Widths and heads of SepViT-Lite; MLPs four times as wide.
WIDTHS = (32, 64, 128, 256)
HEADS = (1, 2, 4, 8)
SEPVIT_DEPTHS = (1, 2, 6, 2)
SWIN_DEPTHS = (2, 2, 6, 2)

# By the side of the pictures, whose maps have an eighth, a sixteenth, ... of it: windows of each
# block. Blocks of SepViT whose window is larger than the one before are GSA.
SEPVIT_WINDOWS = {
    32: ((4,), (2, 4), (1, 2) * 3, (1, 1)),
    64: ((4,), (4, 8), (2, 4) * 3, (2, 2)),
}
WITHOUT_GSA = {
    32: ((4,), (2, 2), (1,) * 6, (1, 1)),
    64: ((4,), (4, 4), (2,) * 6, (2, 2)),
}
SWIN_WINDOWS = {32: (4, 4, 2, 1), 64: (4, 4, 4, 2)}

TITLES = {
    "sepvit": "SepViT",
    "swin": "Swin (KerasHub)",
    "sepvit_glorot": "SepViT, MLPs begin by Glorot",
    "swin_normal": "Swin, begins as its authors' does",
    "swin_no_positions": "Swin without relative positions",
    "no_gsa": "SepViT without GSA",
    "zero_tokens": "SepViT, window tokens of zeros",
    "average_pooling": "SepViT, average pooling for tokens",
    "no_peg": "SepViT without PEG",
}


def build_network(name, image_size, classes, drop_path_rate=0.0):
    """A network with random weights: pictures of 32 x 32 and 0..255 to logits.

    Args:
        name: A key of `TITLES`.
        image_size: Side of the images that the network's layers see, 32 or 64: pixels are
            repeated.
        classes: Number of classes.
        drop_path_rate: Drop path rate of the last block.
    """
    if name.startswith("swin"):
        network = _swin(image_size, classes, drop_path_rate)
        if name == "swin_normal":
            # As Swin's and SepViT's authors do; KerasHub's layers begin by Glorot.
            _reset(network, "", lambda: keras.initializers.TruncatedNormal(stddev=0.02))
        if name == "swin_no_positions":
            for stage in network.get_layer("backbone").stages:
                for block in stage.blocks:
                    table = block.attn.relative_position_bias_table
                    table.assign(keras.ops.zeros(table.shape))
                    table.trainable = False
        return network
    windows = (WITHOUT_GSA if name == "no_gsa" else SEPVIT_WINDOWS)[image_size]
    tokens = {"zero_tokens": "zeros", "average_pooling": "average_pooling"}.get(name, "learned")
    network = keras_sepvit.SepViT(
        keras_sepvit.SepViTConfig(
            hidden_dims=WIDTHS,
            depths=SEPVIT_DEPTHS,
            num_heads=HEADS,
            window_sizes=windows,
            drop_path_rate=drop_path_rate,
            window_tokens=tokens,
            image_size=image_size,
        ),
        input_tensor=_images(image_size),
        classes=classes,
        classifier_activation=None,
    )
    if name == "sepvit_glorot":
        _reset(network, "/mlp/", keras.initializers.GlorotUniform)
    if name == "no_peg":  # x + convolution(x), where kernel and bias stay zero
        for layer in network.layers:
            if isinstance(layer, keras_sepvit.PEG):
                layer.set_weights([0 * weight for weight in layer.get_weights()])
                layer.trainable = False
    return network


def _reset(network, part, initializer):
    """Draws new kernels for the dense layers that have `part` in their paths, but for the head."""
    for layer in network._flatten_layers():
        if isinstance(layer, layers.Dense) and layer.name != "head" and part in layer.path:
            layer.kernel.assign(initializer()(layer.kernel.shape))


def _swin(image_size, classes, drop_path_rate):
    images = _images(image_size)
    x = imagenet_normalization("normalization")(images)
    x = SmallSwin(image_size, drop_path_rate, name="backbone")(x)
    x = layers.GlobalAveragePooling1D(name="pooling")(x)
    pictures = keras.utils.get_source_inputs(images)
    return keras.Model(pictures, layers.Dense(classes, name="head")(x))


def _images(image_size):
    """Images of that size from an input of pictures."""
    pictures = keras.Input((SIDE, SIDE, 3), name="image")
    if image_size == SIDE:
        return pictures
    return layers.UpSampling2D(image_size // SIDE, name="repeated_pixels")(pictures)


@keras.saving.register_keras_serializable(package="keras_sepvit_benchmarks")
class SmallSwin(keras.Model):
    """A Swin (arXiv 2103.14030) of KerasHub's layers that fits small images.

    KerasHub's backbone has one window size, and fails on maps that are smaller: this one has a
    size a stage, and the backbone's attributes.

    Args:
        image_size: Side of the images, a key of `SWIN_WINDOWS`.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first.
        **kwargs: `name` and so on of `keras.Model`.

    Input: (batch, image_size, image_size, 3), normalised. Output: (batch, positions, channels).
    """

    def __init__(self, image_size, drop_path_rate=0.0, **kwargs):
        inputs = keras.Input((image_size, image_size, 3))
        embedding = PatchEmbedding(
            embed_dim=WIDTHS[0], norm_layer=layers.LayerNormalization, name="patch_embedding"
        )
        norm = layers.LayerNormalization(epsilon=1e-5, name="norm")
        last = sum(SWIN_DEPTHS) - 1
        rates = iter([drop_path_rate * block / last for block in range(last + 1)])
        stages = [
            SwinTransformerStage(
                dim=WIDTHS[i],
                depth=depth,
                num_heads=HEADS[i],
                window_size=SWIN_WINDOWS[image_size][i],
                drop_path=[next(rates) for _ in range(depth)],
                downsample=PatchMerging if i < len(WIDTHS) - 1 else None,
                input_resolution=(image_size // 2 ** (i + 2),) * 2,
                name=f"stage_{i}",
            )
            for i, depth in enumerate(SWIN_DEPTHS)
        ]
        x = embedding(inputs)
        for stage in stages:
            x = stage(x)
        super().__init__(inputs, norm(x), **kwargs)
        self.patch_embedding = embedding
        self.stages = stages
        self.norm = norm
        self.image_size = image_size
        self.drop_path_rate = drop_path_rate

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "image_size": self.image_size,
            "drop_path_rate": self.drop_path_rate,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
