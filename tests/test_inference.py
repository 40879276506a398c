"""Predictions with Keras models, with the interface of exported files' predictors."""

import keras
import numpy as np
import pytest
from export_helpers import linear_model, noise
from helpers import SMALL
from PIL import Image

from keras_sepvit import SepViT, scores
from keras_sepvit.export import to_litert
from keras_sepvit.export.model import prepare
from keras_sepvit.inference import KerasPredictor, attach_record, load_model
from keras_sepvit.record import read_record
from keras_sepvit.runtime import ImageClassifier, Predictor, read_image

NAMES = ["one", "two", "three"]
SHAPE = (8, 8, 3)


def bare_model(activation="softmax"):
    """A classifier of normalised images, which leaves that to its user."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, activation=activation)]
    return keras.Sequential([keras.Input(SHAPE), *layers], name="bare")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("inference") / "photo.png"
    Image.fromarray(noise(1, (30, 20, 3))[0].astype("uint8")).save(path)
    return path


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize("make", [linear_model, bare_model])
def test_a_model_and_its_exported_file_give_the_same(tmp_path, photo, make):
    """Of 0..255 both, though the file of a model without normalisation takes other numbers."""
    pytest.importorskip("ai_edge_litert")
    model, path = make(), tmp_path / "model.tflite"
    how = {"crop": 1.0, "interpolation": "bilinear"}
    to_litert(model, path, class_names=NAMES, verbose=False, **how)
    ours, theirs = KerasPredictor(model, NAMES, **how), Predictor(path)
    for name in ("image_shape", "class_names", "crop", "interpolation"):
        assert getattr(ours, name) == getattr(theirs, name)
    images = noise(20, SHAPE)
    expected = theirs.predict(images)
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(ours.predict(images.astype("uint8")), expected, atol=1e-5)
    np.testing.assert_array_equal(
        ours.read_image(photo), read_image(photo, *SHAPE, 1.0, "bilinear")
    )
    assert [guess.label for guess in ours.top(photo)] == [
        guess.label for guess in theirs.top(photo)
    ]
    public = {name for name in dir(ImageClassifier) if name[0] != "_"}
    assert {name for name in (*dir(ours), *dir(theirs)) if name[0] != "_"} == public | {
        *("image_shape", "class_names", "crop", "interpolation", "record")
    }


def test_logits_get_a_softmax():
    model, logits = bare_model(), bare_model(activation=None)
    logits.set_weights(model.get_weights())
    images = noise(2, SHAPE)
    np.testing.assert_allclose(
        KerasPredictor(logits).predict(images), KerasPredictor(model).predict(images), atol=1e-6
    )


@pytest.mark.once("tensorflow")
def test_wrong_arguments_are_refused():
    model = linear_model()
    vector = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    any_size = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    )
    for make, message in (
        (lambda: KerasPredictor(vector), "no image classifier"),
        (lambda: KerasPredictor(any_size), "say which with `image_size`"),
        (lambda: KerasPredictor(model, image_size=(9, 9)), "`image_size`: .* 8 x 8.*9 x 9"),
        (lambda: KerasPredictor(model, ["a"]), "3 classes. Received: 1 names"),
        (lambda: KerasPredictor(model, crop=0), "crop=0"),
        (lambda: KerasPredictor(model, interpolation="x"), "'x'"),
        (lambda: KerasPredictor(model).predict(noise(1, (9, 8, 3))), r"\(count, 8, 8, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert KerasPredictor(any_size, image_size=(4, 5)).image_shape == (4, 5, 1)


@pytest.mark.once("tensorflow")
def test_a_training_folder_tells_how_its_models_are_evaluated(tmp_path):
    """By its record, as the task writes it; without one the names beside a model are found."""
    from keras_sepvit.classification.task import Classification
    from keras_sepvit.recipes import load_recipe

    path = tmp_path / "best.keras"
    linear_model(10).save(path)
    (tmp_path / "recipe.yaml").write_text("data:\n  validation_crop: 0.5\n")
    predictor = KerasPredictor(path)
    assert predictor.class_names[0] == "class 0" and predictor.record is None
    letters = tuple("abcdefghij")
    (tmp_path / "classes.txt").write_text("\n".join(letters), encoding="utf-16")
    predictor = KerasPredictor(path)
    assert predictor.record.class_names == tuple(predictor.class_names) == letters
    assert (predictor.record.crop, predictor.crop) == (None, 0.875)

    task = Classification(load_recipe("digits", ["data.validation_crop=0.9"]))
    task.open()
    for name, text in task.files().items():
        (tmp_path / name).write_text(text)
    predictor = KerasPredictor(str(path))
    assert predictor.class_names == list("0123456789")
    assert (predictor.crop, predictor.interpolation) == (0.9, "bilinear")

    model = linear_model(10)
    attach_record(model, letters, crop=0.5)
    model.save(path)  # what is in the file goes before what lies beside it
    predictor = KerasPredictor(path)
    assert predictor.class_names == list(letters)
    assert (predictor.crop, predictor.interpolation) == (0.5, "bicubic")

    linear_model(10).save(path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(ValueError, match="record.json has a record that cannot be read"):
        load_model(path)
    with pytest.raises(FileNotFoundError, match="none.keras"):
        KerasPredictor(tmp_path / "none.keras")


def sepvit(**kwargs):
    return SepViT(SMALL, input_shape=(64, 64, 3), classes=3, **kwargs)


def fine_tuned():
    """A network with a head of the user's own around it."""
    base = SepViT(SMALL, input_shape=(64, 64, 3), include_top=False, pooling="avg")
    return keras.Sequential([base, keras.layers.Dense(3)])


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize(
    "make, activation, keeps", [(sepvit, None, True), (fine_tuned, "sigmoid", False)]
)
def test_a_file_carries_the_record_that_a_model_was_given(tmp_path, make, activation, keeps):
    """Also through `load_model` of Keras, where the class of the model knows of records."""
    model, path = make(), tmp_path / "model.keras"
    how = {"crop": 0.7, "interpolation": "bilinear", "activation": activation}
    record = attach_record(model, NAMES, **how)
    model.save(path)
    assert read_record(path) == record
    predictor = KerasPredictor(path)
    assert predictor.record == record and predictor.class_names == NAMES
    assert (predictor.crop, predictor.interpolation) == (0.7, "bilinear")
    outputs = model.predict(noise(2, (64, 64, 3)), verbose=0)
    if activation == "sigmoid":
        outputs = 1 / (1 + np.exp(-outputs))
    np.testing.assert_allclose(predictor.predict(noise(2, (64, 64, 3))), outputs, atol=1e-5)
    typed = KerasPredictor(path, list("abc"), crop=0.8, interpolation="bicubic", activation="none")
    assert (typed.class_names, typed.crop, typed.interpolation) == (list("abc"), 0.8, "bicubic")

    loaded = keras.saving.load_model(path)
    loaded.save(path)
    assert read_record(path) == (record if keeps else None)
    assert KerasPredictor(loaded).record == (record if keeps else None)
    with pytest.raises(ValueError, match="3 classes. Received: 1 names"):
        attach_record(model, ["one"])


def average_of_two(inputs, x):
    return keras.layers.Average()([keras.layers.Dense(3, "softmax")(x) for _ in range(2)])


def cast_behind(inputs, x):
    x = keras.layers.Dense(3, "softmax")(x)
    return keras.layers.Activation("linear", dtype="float32")(keras.layers.Identity()(x))


# With what their outputs lack, and what the probabilities are of.
HEADS = {
    "average": (average_of_two, "none", "softmax"),
    "cast": (cast_behind, "none", "softmax"),
    "own function": (
        lambda _, x: keras.layers.Dense(3, lambda x: keras.ops.softmax(x))(x),
        *("none", "softmax"),
    ),
    "many labels": (
        lambda _, x: keras.layers.Dense(3, lambda x: keras.ops.sigmoid(x))(x),
        *("none", "sigmoid"),
    ),
    "cast logits": (
        lambda _, x: keras.layers.Activation("linear")(keras.layers.Dense(3)(x)),
        *("softmax", "softmax"),
    ),
    "one logit": (lambda _, x: keras.layers.Dense(1)(x), "sigmoid", "sigmoid"),
    "one probability": (lambda _, x: keras.layers.Dense(1, "sigmoid")(x), "none", "sigmoid"),
}


@pytest.mark.by_default_on("torch")
@pytest.mark.parametrize("head, missing, kind", HEADS.values(), ids=HEADS)
def test_what_outputs_lack_is_told_by_layers_else_by_values(head, missing, kind):
    """In predictions and in exports alike, unless it is said."""
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, head(inputs, keras.layers.Flatten()(inputs)))
    pictures = noise(4, SHAPE)
    normalised = scores.preprocess(model, pictures)
    outputs = np.asarray(model.predict(normalised, verbose=0), "float64")
    expected = {
        "none": outputs,
        "softmax": np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True),
        "sigmoid": 1 / (1 + np.exp(-outputs)),
    }
    logits = "sigmoid" if missing != "none" else kind
    kinds = {"none": logits, "softmax": "softmax", "sigmoid": "sigmoid", None: kind}
    for activation, recorded in kinds.items():
        wanted = expected[activation or missing]
        predicted = KerasPredictor(model, activation=activation).predict(pictures)
        np.testing.assert_allclose(predicted, wanted, rtol=1e-4)
        deployment = prepare(model, activation=activation)
        assert deployment.activation == recorded
        (predicted,) = deployment.predict(normalised).values()
        np.testing.assert_allclose(predicted, wanted, rtol=1e-4, atol=1e-6)
        deployment = prepare(model, activation=activation, probabilities=False)
        assert deployment.activation == ("linear" if wanted is not outputs else recorded)
        np.testing.assert_array_equal(*deployment.predict(normalised).values(), outputs)
    for refuse in (KerasPredictor, prepare, attach_record):
        with pytest.raises(ValueError, match="Unknown `activation`: 'relu'"):
            refuse(model, activation="relu")
