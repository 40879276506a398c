"""Weights of models with layers of any kind behind the backbone."""

import dataclasses
import re
import warnings

import h5py
import keras
import numpy as np
import pytest
from helpers import TINY, to_numpy
from keras import layers
from weights_helpers import assert_same, classifier, load_quietly, refused, save_h5, values

from keras_sepvit import SepViTBackbone
from keras_sepvit.weights import load_pretrained, load_weights


@keras.saving.register_keras_serializable(package="test")
class Mixer(layers.Layer):
    """Layers in lists, built outside of any scope of names, and a weight and a state of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layers = [layers.Dense(4), [layers.Dense(4), {"norm": layers.BatchNormalization()}]]
        self.generator = keras.random.SeedGenerator(0)

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(4,), name="scale")
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, name="count")

    def call(self, x):
        first, (second, rest) = self.layers
        return rest["norm"](second(first(x))) * self.scale


def mlp(name):
    """A nested model whose layers have the same names in each."""
    return keras.Sequential([layers.Dense(4, name="fc"), layers.Dense(4, name="out")], name=name)


def functional_mlp(name):
    inputs = keras.Input((32,))
    return keras.Model(inputs, layers.Dense(4, name="fc")(inputs), name=name)


# One block a stage, with several windows and with one.
SMALL = dataclasses.replace(TINY, depths=(1, 1, 1, 1), window_sizes=((4,), (4,), (2,), (2,)))

HEADS = {
    "batch normalization": lambda x: layers.Dense(4)(layers.BatchNormalization()(pooled(x))),
    "attention": lambda x: layers.MultiHeadAttention(2, 3)(positions(x), positions(x)),
    "einsum": lambda x: layers.EinsumDense("bpc,cd->bpd", (None, 5), bias_axes="d")(positions(x)),
    "recurrent": lambda x: layers.Bidirectional(layers.LSTM(3))(positions(x)),
    "convolutions": lambda x: layers.GroupNormalization(4)(layers.SeparableConv2D(4, 2)(x)),
    "spectral": lambda x: layers.SpectralNormalization(layers.Conv2DTranspose(4, 2))(x),
    "statistics": lambda x: layers.Normalization()(pooled(x)),
    "nested": lambda x: layers.Add()([mlp(name)(pooled(x)) for name in ("left", "right")]),
    "functional": lambda x: layers.Add()([functional_mlp(n)(pooled(x)) for n in ("left", "right")]),
    "layers of one's own": lambda x: layers.Dropout(0.1)(Mixer()(pooled(x))),
    "named as norms": lambda x: layers.Dense(4, name="norm_free")(pooled(x)),
}
heads = pytest.mark.parametrize("head", HEADS)


def pooled(x):
    return layers.GlobalAveragePooling2D()(x)


def positions(x):
    return layers.Reshape((-1, 32))(x)


def small_backbone(dense=False):
    return SepViTBackbone.from_variant(SMALL, image_shape=(64, 64, 3), dense=dense)


def model_with(head, seed=None, nested=False, dense=False):
    backbone = small_backbone(dense)
    inputs = keras.Input((64, 64, 3)) if nested else backbone.inputs
    features = backbone(inputs) if nested else backbone.output
    model = keras.Model(inputs, HEADS[head](features))
    if seed is not None:
        rng = np.random.default_rng(seed)
        for variable in model.weights:
            number = rng.uniform(1, 9, variable.shape)
            variable.assign(number.astype("int32" if "int" in variable.dtype else "float32"))
    return model


def all_values(model):
    """In order, since names of layers may count up from one model to the next."""
    return [to_numpy(variable) for variable in model.weights]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.by_default_on("torch")
@heads
@pytest.mark.parametrize(
    "kind, nested",
    [pytest.param("weights.h5", False, marks=pytest.mark.thorough), ("keras", True)],
)
def test_a_model_loads_its_own_file(head, kind, nested, tmp_path):
    model = model_with(head, seed=1, nested=nested)
    model.compile("adamw", "mse")
    path = tmp_path / f"model.{kind}"
    model.save(path) if kind == "keras" else model.save_weights(path)
    expected = all_values(model)
    for loaded in (model, model_with(head, nested=nested)):
        for variable in loaded.weights:
            variable.assign(np.zeros(variable.shape))
        report = load_quietly(loaded, path)
        assert_equal(all_values(loaded), expected)
        assert len(report.assigned) == len(expected)
        assert report.new == report.unused == ()


@pytest.mark.thorough
@heads
@pytest.mark.once
def test_a_backbone_takes_the_file_of_a_model_around_it(head, tmp_path):
    for dense, nested in ((False, True), (True, False)):
        model = model_with(head, seed=1, nested=nested, dense=dense)
        path = save_h5(model, tmp_path / "model.weights.h5")
        backbone = small_backbone(dense)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            report = load_pretrained(backbone, path)
        expected = all_values(model)
        assert_equal(all_values(backbone), expected[: len(backbone.weights)])
        assert len(report.unused) >= len(expected) - len(backbone.weights) > 0
        assert report.unused == report.unused_head and report.new == ()


def test_a_flat_model_takes_the_weights_of_a_nested_one(tmp_path):
    def build(nested):
        backbone = small_backbone()
        inputs = keras.Input((64, 64, 3)) if nested else backbone.inputs
        x = backbone(inputs) if nested else backbone.output
        x = layers.MultiHeadAttention(2, 3, name="pool")(positions(x), positions(x))
        return keras.Model(inputs, layers.BatchNormalization(name="last")(x))

    model, loaded = build(nested=True), build(nested=False)
    for number, variable in enumerate(model.weights):
        variable.assign(np.full(variable.shape, number))
    load_quietly(loaded, save_h5(model, tmp_path / "nested.weights.h5"))
    assert_same(values(loaded), values(model))


@pytest.mark.once
def test_the_model_names_what_the_file_numbers(tmp_path):
    path = save_h5(model_with("batch normalization"), tmp_path / "model.weights.h5")
    report = load_weights(small_backbone(), path)
    assert [name.rpartition("/")[2] for name in report.unused] == [
        *("gamma", "beta", "moving_mean", "moving_variance"),
        *("kernel", "bias"),
    ]


@pytest.mark.by_default_on("tensorflow", "torch")
def test_a_subclassed_model_loads_its_own_file(tmp_path):
    class Detector(keras.Model):
        def __init__(self):
            super().__init__()
            self.backbone = small_backbone()
            self.heads = [layers.Dense(2), layers.BatchNormalization()]
            self.offset = self.add_weight(shape=(2,), name="offset")

        def call(self, x):
            x = pooled(self.backbone(x))
            for layer in self.heads:
                x = layer(x)
            return x + self.offset

    models = [Detector(), Detector()]
    for model in models:
        model(np.zeros((1, 64, 64, 3), "float32"))
    for number, variable in enumerate(models[0].weights):
        variable.assign(np.full(variable.shape, number))
    path = save_h5(models[0], tmp_path / "detector.weights.h5")
    load_quietly(models[1], path)
    assert_equal(all_values(models[1]), all_values(models[0]))
    assert len(load_weights(small_backbone(), path).unused_head) == 7


@pytest.mark.once
def test_heads_that_differ_are_refused_unless_asked_for(tmp_path):
    path = save_h5(model_with("batch normalization", seed=1), tmp_path / "model.weights.h5")
    message = refused(classifier(SMALL), path, "do not fit model")
    assert "head/kernel: not in the file, (32, 5) in the model" in message
    assert "moving_mean: (32,) in the file, not in the model" in message
    assert "skip_head_mismatch=True" in message and "behind its backbone" in message
    report = load_weights(classifier(SMALL), path, skip_head_mismatch=True)
    assert report.new == ("head/kernel", "head/bias")
    assert len(report.unused_head) == 6

    plain = save_h5(classifier(SMALL), tmp_path / "classifier.weights.h5")
    model = model_with("batch normalization")
    assert "classification form, 5 classes" in refused(model, plain, "do not fit model")
    load_weights(model, plain, skip_head_mismatch=True)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["keras", "weights.h5"])
@pytest.mark.parametrize("base", ["features", "backbone", "classifier"])
@pytest.mark.once
def test_weights_of_a_model_around_the_network_give_its_backbone(base, kind, tmp_path):
    """As people fine-tune: `Sequential(base, Dense)`, compiled, trained and saved."""
    bases = {
        "features": lambda: classifier(SMALL, include_top=False, pooling="avg"),
        "backbone": lambda: keras.Sequential([small_backbone(), layers.GlobalAveragePooling2D()]),
        "classifier": lambda: classifier(SMALL),
    }
    model = keras.Sequential([bases[base](), layers.Dense(4, name="top")])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 64, 64, 3)), np.ones((2, 4)), verbose=0)
    path = tmp_path / f"fine_tuned.{kind}"
    model.save(path) if kind == "keras" else model.save_weights(path)
    with pytest.warns(UserWarning, match="(?s)initial values: head/kernel.*not used: .*top/kernel"):
        loaded = classifier(SMALL, classes=3, weights=path)
    trained = [value for value in all_values(model) if value.shape not in ((4,), (32, 4))]
    count = len(loaded.weights) - 2
    assert_equal(all_values(loaded)[:count], trained[:count])
    with pytest.raises(ValueError, match="classes=5"):  # the same layers for other classes
        classifier(SMALL, classes=3, weights=save_h5(classifier(SMALL), tmp_path / "5.weights.h5"))


@pytest.mark.once
def test_layers_at_the_same_place_with_names_of_their_own_are_not_confused(tmp_path):
    def build(name):
        inputs = keras.Input((64, 64, 3))
        return keras.Model(inputs, layers.Dense(4, name=name)(small_backbone()(inputs)))

    path = save_h5(build("colours"), tmp_path / "colours.weights.h5")
    message = refused(build("shapes"), path, "do not fit model")
    assert "colours/kernel" in message and "shapes/kernel: not in the file" in message


@pytest.mark.once
def test_a_file_leads_to_no_attribute_but_layers(untouched, source, tmp_path):
    """Names in a file are looked up in the model: none may reach its insides, or raise."""
    path = tmp_path / "hostile.weights.h5"
    for place in ("__class__", "__init__/__globals__", "input", "non_trainable_variables"):
        path.write_bytes(source[1].read_bytes())
        with h5py.File(path, "r+") as file:
            variables = file.create_group(f"{place}/vars")
            variables.attrs["name"] = "head"
            variables["0"] = np.ones(3, "float32")
        refused(untouched, path, "do not fit model|cannot be told apart")


@pytest.mark.once
def test_heads_do_not_change_the_summary_of_the_backbone(tmp_path):
    path = save_h5(model_with("attention"), tmp_path / "model.weights.h5")
    message = refused(classifier(SMALL, classes=3), path, "do not fit model")
    assert "File: stages of (8, 16, 24, 32) channels and (1, 1, 1, 1) blocks" in message
    assert re.search(r"with .*multi_head_attention\w*.* behind it", message)
