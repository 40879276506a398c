import inspect

import keras
import numpy as np
import pytest
from helpers import BACKEND, SMALL, TINY, images, randomize, run, to_numpy

import keras_sepvit
from keras_sepvit import SepViT, SepViTBackbone
from keras_sepvit.detection import RetinaNet

VARIANTS = {
    "SepViTLite": ("sepvit_lite", 3_661_128, 0.1),
    "SepViTT": ("sepvit_t", 31_182_856, 0.2),
    "SepViTS": ("sepvit_s", 46_570_504, 0.3),
    "SepViTB": ("sepvit_b", 82_377_064, 0.5),
}


@pytest.mark.once
@pytest.mark.parametrize("constructor", VARIANTS)
def test_constructors_make_the_models_of_the_paper(constructor):
    name, parameters, drop_path_rate = VARIANTS[constructor]
    model = getattr(keras_sepvit, constructor)()
    # The preprocessing's constants are no parameters of the network.
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameters
    assert model.name == name
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    assert model.get_layer("stage4_block2").drop_path_rate == pytest.approx(drop_path_rate)


@pytest.mark.once
@pytest.mark.parametrize("constructor", VARIANTS)
def test_signature_is_that_of_keras_applications(constructor):
    ours = inspect.signature(getattr(keras_sepvit, constructor)).parameters
    theirs = inspect.signature(keras.applications.ConvNeXtTiny).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    # `weights` and `name` differ: there are no ImageNet weights.
    defaults = {key: p.default for key, p in theirs.items() if key not in ("weights", "name")}
    assert {key: ours[key].default for key in defaults} == defaults
    assert ours["weights"].default is None


def tiny(**kwargs):
    model = SepViT(TINY, **{"classes": 5, **kwargs})
    randomize(model)
    return model


def cut(model, first=None, last=None):
    """The part of a model after the layer `first` and up to the layer `last`."""
    inputs = model.get_layer(first).output if first else model.input
    return keras.Model(inputs, model.get_layer(last).output if last else model.output)


def test_without_a_head_comes_the_normed_map():
    model = tiny(include_top=False)
    assert model.output is model.get_layer("norm").output
    assert model.output_shape == (None, 2, 2, 32)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling_takes_the_mean_or_the_maximum_over_positions(pooling):
    model = tiny(include_top=False, pooling=pooling)
    maps = images((3, 2, 2, 32))
    expected = {"avg": maps.mean((1, 2)), "max": maps.max((1, 2))}[pooling]
    np.testing.assert_allclose(run(cut(model, first="norm"), maps), expected, atol=1e-6)


def test_head_is_the_mean_of_the_normed_map_and_a_dense_layer():
    maps = images((3, 2, 2, 32))
    model = tiny(classifier_activation=None)
    kernel, bias = map(to_numpy, model.get_layer("head").weights)
    logits = maps.mean((1, 2)) @ kernel + bias
    assert logits.shape == (3, 5)
    np.testing.assert_allclose(run(cut(model, first="norm"), maps), logits, atol=1e-5)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(
        run(cut(tiny(), first="norm"), maps),
        exponentials / exponentials.sum(-1, keepdims=True),
        atol=1e-6,
    )


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.parametrize(
    "policy, by_argument", [("float32", True), ("mixed_bfloat16", True), ("mixed_bfloat16", False)]
)
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_all_layers_have_the_models_policy(policy, by_argument, pooling):
    """Given for the model, or as the global policy, which the argument leaves alone."""
    other = "mixed_bfloat16" if policy == "float32" else "float32"
    keras.config.set_dtype_policy(other if by_argument else policy)
    top = {"include_top": False, "pooling": pooling} if pooling else {"classes": 5}
    model = SepViT(TINY, dtype=policy if by_argument else None, **top)
    assert keras.config.dtype_policy().name == (other if by_argument else policy)
    # Images are normalised, and answers given, in float32.
    for layer in model._flatten_layers():
        expected = "float32" if layer.name in ("preprocessing", "head") else policy
        if layer.name != "image":  # Keras gives inputs the global policy, without effect
            assert layer.dtype_policy.name == expected, layer.path
    assert model.get_layer("image").dtype == "float32"
    output = run(model, np.zeros((1, 64, 64, 3), "uint8"))
    assert np.isfinite(output).all()
    assert model.output.dtype == ("bfloat16" if pooling and "bfloat16" in policy else "float32")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_preprocessing_normalises_images_of_0_to_255(dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), "uint8")
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = run(
        cut(tiny(include_preprocessing=False), last="stage1_embed"), normalised.astype("float32")
    )
    result = run(cut(tiny(), last="stage1_embed"), pixels.astype(dtype))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_probabilities_of_images_of_whole_numbers():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), "uint8")
    probabilities = run(tiny(), pixels)
    assert probabilities.shape == (2, 5)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    assert not np.allclose(probabilities[0], probabilities[1], atol=1e-3)


@pytest.mark.once
def test_preprocess_input_leaves_the_work_to_the_model():
    x = images((1, 4, 4, 3))
    assert keras_sepvit.preprocess_input(x) is x


def test_input_tensor_continues_another_model():
    inputs = keras.Input((64, 64, 1), name="grey")
    rgb = keras.layers.Concatenate()([inputs, inputs, inputs])
    model = tiny(input_tensor=rgb)
    assert model.input_shape == (None, 64, 64, 1)
    grey = 255 * np.abs(images((1, 64, 64, 1)))
    expected = run(cut(tiny(), last="stage1_embed"), np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(run(cut(model, last="stage1_embed"), grey), expected, atol=1e-5)
    assert model.output_shape == (None, 5)


def test_input_tensor_of_a_fixed_batch():
    inputs = keras.Input(batch_shape=(2, 64, 64, 3))
    assert tiny(input_tensor=inputs).output_shape == (2, 5)


def test_input_shape_scales_the_windows():
    model = tiny(input_shape=(96, 128, 3))
    assert model.get_layer("stage1_block1").window_size == (6, 8)
    assert [w.shape for w in model.weights] == [w.shape for w in tiny().weights]
    assert model.output_shape == (None, 5)


def test_pad_windows_keeps_the_windows():
    model = tiny(input_shape=(50, 75, 3), pad_windows=True)
    assert model.get_layer("stage1_block1").window_size == (4, 4)
    assert model.output_shape == (None, 5)


def test_other_channels_without_preprocessing():
    model = tiny(input_shape=(64, 64, 1), include_preprocessing=False)
    assert model.input_shape == (None, 64, 64, 1)
    assert model.output_shape == (None, 5)


def test_a_saved_classifier_loads_with_the_same_outputs(tmp_path):
    model = tiny(name="digits")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.name == "digits" and type(loaded) is type(model)
    levels = SepViTBackbone.from_variant(TINY, (64, 64, 3)).pyramid_outputs
    for classifier in (model, loaded, keras.models.clone_model(model)):
        found = classifier.pyramid_outputs
        assert {key: x.shape for key, x in found.items()} == {k: x.shape for k, x in levels.items()}
        assert keras.Model(classifier.inputs, found).output.keys() == levels.keys()
        assert found["P5"] is classifier.get_layer("norm").input
    x = 255 * np.abs(images((1, 64, 64, 3)))
    np.testing.assert_allclose(run(loaded, x), run(model, x), atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_files_of_compiled_models_do_not_start_torchs_compiler(kind, tmp_path):
    """TensorFlow and JAX write `jit_compile=True` unasked."""
    model = tiny() if kind == "classifier" else RetinaNet(SMALL, 2, image_shape=(64, 64, 3))
    model.compile(keras.optimizers.SGD(), jit_compile=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.jit_compile is (BACKEND != "torch")
    assert loaded.optimizer.built


@pytest.mark.once
def test_decode_predictions_names_the_most_probable_classes(monkeypatch):
    # The names that Keras would download.
    names = {str(index): [f"n{index:08d}", f"class_{index}"] for index in range(1000)}
    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", names)
    predictions = np.zeros((2, 1000))
    predictions[0, [7, 3]] = 0.6, 0.4
    predictions[1, 999] = 1
    first, second = keras_sepvit.decode_predictions(predictions, top=2)
    assert [(name, score) for _, name, score in first] == [("class_7", 0.6), ("class_3", 0.4)]
    assert second[0] == ("n00000999", "class_999", 1)
    assert len(keras_sepvit.decode_predictions(predictions)[0]) == 5


@pytest.mark.once
@pytest.mark.parametrize("constructor", VARIANTS)
def test_every_argument_is_documented(constructor):
    function = getattr(keras_sepvit, constructor)
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in function.__doc__


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone traces twice")
def test_the_first_step_is_traced_once():
    traced = []

    def loss(labels, outputs):
        traced.append(outputs)
        return keras.losses.sparse_categorical_crossentropy(labels, outputs)

    model = SepViT(SMALL, classes=3)
    model.compile("adamw", loss)
    images, labels = np.zeros((2, 64, 64, 3), "float32"), np.array([0, 2])
    before = model.train_on_batch(images, labels)
    assert len(traced) == 1 and len(model.optimizer.variables) > 2 * len(model.trainable_variables)
    for _ in range(3):
        after = model.train_on_batch(images, labels)
    assert len(traced) == 1 and after < before
