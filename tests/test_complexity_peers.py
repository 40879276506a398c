"""Complexity of the peers: the formulas against the papers, published sizes and libraries."""

import keras
import pytest
from helpers import BACKEND
from keras import layers, ops

from keras_sepvit import complexity
from keras_sepvit.complexity.graph import traced_macs
from keras_sepvit.complexity.peers import PyramidConfig, VitConfig
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
}
MAP = (12, 18)
CHANNELS = 8


@pytest.mark.once
@pytest.mark.parametrize(("network", "variant"), PUBLISHED)
def test_published_figures(network, variant):
    convention, macs, parameters = PUBLISHED[network, variant]
    cost = getattr(complexity, network)(variant).cost
    if network == "twins_svt":
        assert getattr(cost, convention) / 1e9 == pytest.approx(float(macs), rel=0.005)
    else:
        digits = len(macs.partition(".")[2])
        assert f"{getattr(cost, convention) / 1e9:.{digits}f}" == macs
    if isinstance(parameters, int):
        assert cost.parameters == parameters
    assert cost.parameters == pytest.approx(parameters, abs=0.01e6)


@pytest.mark.once
def test_published_figure_at_384():
    # Swin's table 1 has 55.4 G for ViT-B/16 at 384 x 384.
    macs = complexity.vit("vit_b16", 384).cost.macs_with_attention
    assert macs / 1e9 == pytest.approx(55.4, rel=0.01)


@pytest.mark.once
def test_attention_is_that_of_the_papers():
    height, width, channels, side = 28, 42, 32, 7
    area = height * width
    msa = 4 * area * channels**2 + 2 * area**2 * channels  # Swin, equation 1
    assert complexity.msa(area, channels).macs_with_attention == msa

    windowed = 4 * area * channels**2 + 2 * side**2 * area * channels  # Swin, equation 2
    cost = complexity.w_msa(height, width, channels, side, num_heads=4)
    assert cost.macs_with_attention == windowed
    local = complexity.twins_lsa(height, width, channels, side)
    assert local.macs_with_attention == windowed
    assert cost.parameters - local.parameters == 4 * (2 * side - 1) ** 2

    # PVT, section 3.3: the products are those of global attention over reduction^2.
    reduced = complexity.sra(height, width, channels, side)
    assert reduced.attention_macs * side**2 == complexity.msa(area, channels).attention_macs
    assert complexity.twins_gsa(height, width, channels, side) == reduced
    assert complexity.sra(height, width, channels, 1) == complexity.msa(area, channels)

    # SepViT, section 3.3: DSA of groups of 2 x 2 windows.
    grouped = complexity.gsa(area // side**2, side**2, channels, group_size=4)
    assert grouped == complexity.dsa(6, (2 * side) ** 2 + 1, channels)
    bare = complexity.gsa(area // side**2, side**2, channels, 4, window_token=False)
    assert bare.attention_macs == 4 * local.attention_macs


def global_attention(x, keys=None):
    """Attention with one head among the positions of (batch, positions, channels)."""
    keys = x if keys is None else keys
    query = layers.Dense(CHANNELS)(x)
    key, value = ops.split(layers.Dense(2 * CHANNELS)(keys), 2, axis=-1)
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
    return layers.Dense(CHANNELS)(ops.matmul(weights, value))


def positions(x):
    return ops.reshape(x, (-1, x.shape[1] * x.shape[2], CHANNELS))


def reduced_attention(x):
    keys = layers.LayerNormalization()(layers.Conv2D(CHANNELS, 3, strides=3)(x))
    return global_attention(positions(x), positions(keys))


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
            complexity.msa(MAP[0] * MAP[1], CHANNELS),
        ),
        (reduced_attention, complexity.sra(*MAP, CHANNELS, 3)),
        (window_attention, complexity.twins_lsa(*MAP, CHANNELS, 6)),
        (padded_window_attention, complexity.twins_lsa(13, 18, CHANNELS, 6)),
    ],
    ids=["msa", "sra", "lsa", "padded lsa"],
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
    assert_cost_of_backbone(model, image_size, complexity.swin(config, image_size))


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
    assert_cost_of_backbone(model, (64, 64), complexity.vit(config, 64))


@pytest.mark.skipif(BACKEND != "torch", reason="a model of torch")
def test_pvt_of_transformers():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
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
    cost = complexity.pvt(config, 64, classes=10).cost
    assert sum(weight.numel() for weight in model.parameters()) == cost.parameters
    macs = traced_macs(model, (64, 64, 3), channels_first=True)
    assert macs == cost.macs_with_attention


@pytest.mark.once
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: complexity.swin("swin_xl"), "'swin_xl'.*swin_t, swin_s, swin_b"),
        (lambda: complexity.vit("swin_t"), "'swin_t'.*vit_b16"),
        (lambda: complexity.swin("swin_t", (224, 230)), "multiples of 32.*224 x 230"),
        (lambda: complexity.vit("vit_b16", 0), "image_size=0"),
        (lambda: complexity.twins_svt("twins_svt_s", classes=0), "classes=0"),
        (lambda: complexity.sra(4, 4, 8, reduction=5), "reduction=5.*4 x 4"),
        (lambda: complexity.gsa(6, 49, 8, group_size=4), "group_size=4 for 6 windows"),
        (lambda: complexity.msa(2.5, 8), "tokens=2.5"),
        (lambda: complexity.twins_lsa(4, 4, 8, 0), "window_height=0"),
        (lambda: complexity.dsa(1, -1, 8), "tokens=-1"),
        (lambda: complexity.psa(1, 49, True), "channels=True"),
        (lambda: complexity.w_msa(7, 7, 8, 7, num_heads=0), "num_heads=0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
