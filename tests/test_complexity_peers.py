"""Complexity of the peers: the formulas against the papers, published sizes and libraries."""

import keras
import pytest
from helpers import BACKEND
from keras import layers, ops
from peers import attention as costs
from peers import networks
from peers.networks import PyramidConfig, VitConfig

from keras_sepvit import complexity
from keras_sepvit.complexity.graph import traced_macs
from keras_sepvit.windows import window_partition

# At 224 x 224: convention, G MACs to as many digits as published, and parameters.
PUBLISHED = {
    # torchvision
    ("vit", "vit_b16"): ("macs_with_attention", "17.56", 86_567_656),
    ("swin", "swin_t"): ("macs_with_attention", "4.49", 28_288_354),
    ("swin", "swin_s"): ("macs_with_attention", "8.74", 49_606_258),
    ("swin", "swin_b"): ("macs_with_attention", "15.43", 87_768_224),
    # Swin's paper, table 1
    ("vit", "deit_s"): ("macs_with_attention", "4.6", 22.05e6),
    # PVT's paper
    ("pvt", "pvt_tiny"): ("macs_with_attention", "1.9", 13.23e6),
    ("pvt", "pvt_small"): ("macs_with_attention", "3.8", 24.49e6),
    ("pvt", "pvt_medium"): ("macs_with_attention", "6.7", 44.21e6),
    ("pvt", "pvt_large"): ("macs_with_attention", "9.8", 61.37e6),
    # mmpretrain, whose counter agrees to 0.5 %
    ("twins_svt", "twins_svt_s"): ("macs", "2.82", 24.06e6),
    ("twins_svt", "twins_svt_b"): ("macs", "8.35", 56.07e6),
    ("twins_svt", "twins_svt_l"): ("macs", "14.82", 99.27e6),
    # CvT's paper, table 3, whose counts are 1 % below
    ("cvt", "cvt_13"): ("macs_with_attention", "4.5", 20.00e6),
    ("cvt", "cvt_21"): ("macs_with_attention", "7.1", 31.62e6),
}
MAP = (12, 18)
CHANNELS = 8


@pytest.mark.once
@pytest.mark.parametrize(("network", "variant"), PUBLISHED)
def test_published_figures(network, variant):
    convention, macs, parameters = PUBLISHED[network, variant]
    cost = getattr(networks, network)(variant).cost
    tolerance = {"twins_svt": 0.005, "cvt": 0.015}.get(network)
    if tolerance:
        assert getattr(cost, convention) / 1e9 == pytest.approx(float(macs), rel=tolerance)
    else:
        digits = len(macs.partition(".")[2])
        assert f"{getattr(cost, convention) / 1e9:.{digits}f}" == macs
    if isinstance(parameters, int):
        assert cost.parameters == parameters
    assert cost.parameters == pytest.approx(parameters, abs=0.01e6)


@pytest.mark.once
def test_published_figure_at_384():
    # Swin's table 1 has 55.4 G for ViT-B/16 at 384 x 384.
    macs = networks.vit("vit_b16", 384).cost.macs_with_attention
    assert macs / 1e9 == pytest.approx(55.4, rel=0.01)


@pytest.mark.once
def test_attention_is_that_of_the_papers():
    height, width, channels, side = 28, 42, 32, 7
    area = height * width
    msa = 4 * area * channels**2 + 2 * area**2 * channels  # Swin, equation 1
    assert costs.msa(area, channels).macs_with_attention == msa

    windowed = 4 * area * channels**2 + 2 * side**2 * area * channels  # Swin, equation 2
    cost = costs.w_msa(height, width, channels, side, num_heads=4)
    assert cost.macs_with_attention == windowed
    local = costs.twins_lsa(height, width, channels, side)
    assert local.macs_with_attention == windowed
    assert cost.parameters - local.parameters == 4 * (2 * side - 1) ** 2

    # PVT, section 3.3: the products are those of global attention over reduction^2.
    reduced = costs.sra(height, width, channels, side)
    assert reduced.attention_macs * side**2 == costs.msa(area, channels).attention_macs
    assert costs.twins_gsa(height, width, channels, side) == reduced
    assert costs.sra(height, width, channels, 1) == costs.msa(area, channels)

    # CvT, section 3.3: convolutions of stride 2 leave a quarter of the products.
    convolved = costs.conv_attention(height, width, channels)
    assert convolved.attention_macs * 4 == costs.msa(area, channels).attention_macs
    layer_macs = 9 * channels * (area + area // 2) + (2 * area + area // 2) * channels**2
    assert convolved.macs == layer_macs

    # SepViT, section 3.3: DSA of groups of 2 x 2 windows.
    grouped = complexity.gsa(area // side**2, side**2, channels, group_size=4)
    assert grouped == complexity.dsa(6, (2 * side) ** 2 + 1, channels)
    bare = complexity.gsa(area // side**2, side**2, channels, 4, window_token=False)
    assert bare.attention_macs == 4 * local.attention_macs


def global_attention(x, keys=None, values=None):
    """Attention with one head among the positions of (batch, positions, channels)."""
    keys = x if keys is None else keys
    query, key, value = (
        layers.Dense(CHANNELS)(part) for part in (x, keys, keys if values is None else values)
    )
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
    return layers.Dense(CHANNELS)(ops.matmul(weights, value))


def positions(x):
    return ops.reshape(x, (-1, x.shape[1] * x.shape[2], CHANNELS))


def reduced_attention(x):
    keys = layers.LayerNormalization()(layers.Conv2D(CHANNELS, 3, strides=3)(x))
    return global_attention(positions(x), positions(keys))


def convolutional_attention(x):
    def projected(strides):
        convolution = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)
        # A scale and an offset a channel, as a batch norm's trainable weights are.
        return positions(layers.LayerNormalization()(convolution(x)))

    return global_attention(projected(1), projected(2), projected(2))


def window_attention(x):
    windows = window_partition(x, (6, 6))
    return global_attention(ops.reshape(windows, (-1, 36, CHANNELS)))


def padded_window_attention(x):
    return window_attention(ops.pad(x, ((0, 0), (0, 6), (0, 0), (0, 0)))[:, : MAP[0] + 6])


@pytest.mark.parametrize(
    ("attention", "cost"),
    [
        (
            lambda x: global_attention(positions(x)),
            costs.msa(MAP[0] * MAP[1], CHANNELS),
        ),
        (reduced_attention, costs.sra(*MAP, CHANNELS, 3)),
        (convolutional_attention, costs.conv_attention(*MAP, CHANNELS)),
        (window_attention, costs.twins_lsa(*MAP, CHANNELS, 6)),
        (padded_window_attention, costs.twins_lsa(13, 18, CHANNELS, 6)),
    ],
    ids=["msa", "sra", "cvt", "lsa", "padded lsa"],
)
def test_attention_of_a_built_model(attention, cost):
    x = keras.Input((*MAP, CHANNELS))
    model = keras.Model(x, attention(x))
    assert model.count_params() == cost.parameters
    assert traced_macs(model, (*MAP, CHANNELS)) == cost.macs_with_attention


def assert_cost_of_backbone(model, image_size, result):
    """Of a model without a head: dense layer, and final norm where the model has none."""
    head = result.stages[-1].layers["head"]
    assert traced_macs(model, (*image_size, 3)) == result.cost.macs_with_attention - head.macs
    assert model.count_params() == result.cost.parameters - head.parameters


@pytest.mark.thorough
@pytest.mark.hub
@pytest.mark.filterwarnings("ignore:Layer 'attn'.*does not support masking")
@pytest.mark.parametrize("image_size", [(224, 224), (256, 320)])
def test_swin_of_keras_hub(image_size):
    keras_hub = pytest.importorskip("keras_hub", reason="needs the `hub` extra: keras-hub[grain]")
    config = PyramidConfig((8, 16, 32, 64), (2, 2, 1, 2), (1, 2, 4, 8))
    model = keras_hub.models.SwinTransformerBackbone(
        image_shape=(*image_size, 3),
        embed_dim=8,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=7,
    )
    assert_cost_of_backbone(model, image_size, networks.swin(config, image_size))


@pytest.mark.hub
def test_vit_of_keras_hub():
    keras_hub = pytest.importorskip("keras_hub", reason="needs the `hub` extra: keras-hub[grain]")
    config = VitConfig(hidden_dim=16, depth=2, patch_size=8)
    model = keras_hub.models.ViTBackbone(
        image_shape=(64, 64, 3),
        patch_size=(8, 8),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=64,
    )
    assert_cost_of_backbone(model, (64, 64), networks.vit(config, 64))


@pytest.mark.skipif(BACKEND != "torch", reason="models of torch")
@pytest.mark.parametrize("network", ["pvt", "cvt"])
def test_networks_of_transformers(network):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    if network == "pvt":
        config = PyramidConfig((8, 16, 24, 32), (2, 1, 2, 1), (1, 2, 3, 4))
        model = transformers.PvtForImageClassification(
            transformers.PvtConfig(
                image_size=64,
                hidden_sizes=config.hidden_dims,
                depths=config.depths,
                num_attention_heads=config.num_heads,
                num_labels=10,
            )
        )
    else:
        config = PyramidConfig((8, 16, 24), (1, 2, 3), (1, 2, 3))
        model = transformers.CvtForImageClassification(
            transformers.CvtConfig(
                embed_dim=config.hidden_dims,
                depth=config.depths,
                num_heads=config.num_heads,
                num_labels=10,
            )
        )
    # 80 leaves CvT an odd map; PVT takes one size.
    side = 64 if network == "pvt" else 80
    cost = getattr(networks, network)(config, side, classes=10).cost
    assert sum(weight.numel() for weight in model.parameters()) == cost.parameters
    assert traced_macs(model, (side, side, 3), channels_first=True) == cost.macs_with_attention


@pytest.mark.once
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: networks.swin("swin_xl"), "'swin_xl'.*swin_t, swin_s, swin_b"),
        (lambda: networks.vit("swin_t"), "'swin_t'.*vit_b16"),
        (lambda: networks.swin("swin_t", (224, 230)), "multiples of 32.*224 x 230"),
        (lambda: networks.vit("vit_b16", 0), "image_size=0"),
        (lambda: networks.twins_svt("twins_svt_s", classes=0), "classes=0"),
        (lambda: networks.cvt("cvt_13", 232), "multiples of 16.*232 x 232"),
        (lambda: costs.conv_attention(4, 4, 8, stride=0), "stride=0"),
        (lambda: costs.sra(4, 4, 8, reduction=5), "reduction=5.*4 x 4"),
        (lambda: complexity.gsa(6, 49, 8, group_size=4), "group_size=4 for 6 windows"),
        (lambda: costs.msa(2.5, 8), "tokens=2.5"),
        (lambda: costs.twins_lsa(4, 4, 8, 0), "window_height=0"),
        (lambda: complexity.dsa(1, -1, 8), "tokens=-1"),
        (lambda: complexity.psa(1, 49, True), "channels=True"),
        (lambda: costs.w_msa(7, 7, 8, 7, num_heads=0), "num_heads=0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
