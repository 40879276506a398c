"""Distillation: the loss, teachers of every kind, and whole runs with one."""

import shutil
import types

import keras
import numpy as np
import pytest
from exported import CLASSES, NAMES, probabilities, random_images, write_onnx
from helpers import BACKEND, loss_and_gradients, randomize, run, to_numpy
from keras import layers, ops
from resumption import check_a_killed_run
from training_data import SMALL_DIGITS, write_folder

from keras_sepvit import SepViT
from keras_sepvit.classification import task
from keras_sepvit.classification.losses import distillation_losses, soft_cross_entropy
from keras_sepvit.classification.mixing import BatchAugmentation, draw_mixing
from keras_sepvit.classification.teacher import TaughtAugmentation, Teacher
from keras_sepvit.inference import attach_record
from keras_sepvit.recipes import load_recipe
from keras_sepvit.training.checkpoint import read_header
from keras_sepvit.training.trainer import Trainer

SHAPE = (8, 12, 3)
# The digits recipe in few steps, without RandAugment, which takes longest to trace.
SHORT = (
    "data.train_split=train",
    "augmentation.auto_augment=null",
    "model.drop_path_rate=0",
    "precision=float32",
    "batch_size=128",
    "optimizer.warmup_epochs=0.5",
    "epochs=2",
    "checkpoint_steps=4",
)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "DIGITS_CONFIG", SMALL_DIGITS)
        yield


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """A random classifier of the digits, of the student's network."""
    keras.utils.set_random_seed(5)
    model = SepViT(SMALL_DIGITS, input_shape=(32, 32, 3), classes=10)
    randomize(model.get_layer("head"))  # else all classes are alike
    attach_record(model, [str(digit) for digit in range(10)])
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def distilled(teacher_file, tmp_path_factory):
    """A finished run with a teacher: its trainer, folder and logs."""
    folder = tmp_path_factory.mktemp("runs") / "distilled"
    trainer = Trainer(recipe(f"distill.teacher={teacher_file}", "distill.weight=0.5"), folder)
    return trainer, folder, trainer.train(verbose=0).history


def recipe(*changes):
    return load_recipe("digits", [*SHORT, *changes])


def linear(shape=SHAPE, classes=CLASSES, activation="softmax", rescaled=True, seed=0):
    """A classifier that costs next to nothing."""
    keras.utils.set_random_seed(seed)
    first = [layers.Rescaling(1 / 255)] if rescaled else []
    last = [layers.Flatten(), layers.Dense(classes, activation=activation)]
    return keras.Sequential([keras.Input(shape), *first, *last])


def data(classes=CLASSES, names=None):
    """What a teacher asks of a source."""
    return types.SimpleNamespace(classes=classes, class_names=names)


def matched(name, source):
    teacher = Teacher(str(name))
    teacher.match(source)
    return teacher


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def answers(teacher, pixels):
    """A teacher's probabilities."""
    return softmax(to_numpy(teacher(ops.convert_to_tensor(pixels.astype("float32")))))


# The loss


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_is_that_of_the_papers(hard, temperature):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(0, 3, (2, 6, 5))
    labels = softmax(rng.normal(0, 3, (6, 5)))
    log = np.log(softmax(student))
    cross_entropy = -(labels * log).sum()
    if hard:
        distance = -log[np.arange(6), teacher.argmax(axis=-1)].sum()
    else:
        expected, found = softmax(teacher / temperature), softmax(student / temperature)
        distance = temperature**2 * (expected * np.log(expected / found)).sum()
    labels, teacher, student = (
        ops.convert_to_tensor(values.astype("float32")) for values in (labels, teacher, student)
    )
    targets = {"labels": labels, "teacher": teacher}
    settings = {"weight": 0.3, "temperature": temperature, "hard": hard}
    losses = to_numpy(distillation_losses(targets, student, **settings))
    np.testing.assert_allclose(losses["cross_entropy"], (0.7 * cross_entropy, 6), rtol=1e-5)
    np.testing.assert_allclose(losses["distillation"], (0.3 * distance, 6), rtol=1e-5)
    alone = to_numpy(distillation_losses(targets, student, **{**settings, "weight": 0}))
    assert alone["distillation"][0] == 0
    np.testing.assert_array_equal(
        alone["cross_entropy"], to_numpy(soft_cross_entropy(labels, student))["loss"]
    )


def test_soft_loss_of_sure_answers_has_its_gradient():
    """Where probabilities of float32 are 0, and `keras.losses.kl_divergence` has no gradient."""
    teacher = np.float32([[50, -50, 0, 0], [-50, 50, 0, 0]])
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4, use_bias=False)])
    model.layers[0].kernel.assign(-teacher)

    def soft(labels, outputs):
        targets = {"labels": labels, "teacher": ops.convert_to_tensor(teacher)}
        losses = distillation_losses(targets, outputs, weight=1, temperature=2, hard=False)
        return losses["distillation"][0]

    x = ops.convert_to_tensor(np.eye(2, dtype="float32"))
    labels = ops.convert_to_tensor(np.full((2, 4), 0.25, "float32"))
    loss, gradients = loss_and_gradients(model, x, labels, loss=soft)
    (gradient,) = gradients.values()
    assert float(loss) == pytest.approx(4 * 2 * 50, rel=1e-5)
    np.testing.assert_allclose(gradient, 2 * (softmax(-teacher / 2) - softmax(teacher / 2)), 1e-5)
    model.layers[0].kernel.assign(teacher)
    loss, gradients = loss_and_gradients(model, x, labels, loss=soft)
    assert float(loss) == 0 and not any(np.any(gradient) for gradient in gradients.values())


# Teachers


def test_the_teacher_sees_erased_and_mixed_images():
    seen = []

    def teacher(images):
        seen.append(images)
        return ops.mean(images, axis=(1, 2))

    pixels, labels = random_images(4, image_shape=(16, 16, 3)), np.arange(4, dtype="int32")
    draws = draw_mixing((0, 0), 4, (16, 16), 4, mixup=0.8, cutmix=0.0, cutmix_rate=0.0)
    batch = {"image": pixels, "label": labels, **{k: v.numpy() for k, v in draws.items()}}
    batch["erased"] = np.float32([[0, 0, 8, 8]] * 4)
    batch = {key: ops.convert_to_tensor(value) for key, value in batch.items()}
    images, targets = TaughtAugmentation(BatchAugmentation(4, group=4, seed=0), teacher)(batch)
    alone, soft = BatchAugmentation(4, group=4, seed=0)(batch)
    assert not np.allclose(to_numpy(alone), pixels)
    for mixed in (images, *seen):
        np.testing.assert_array_equal(to_numpy(mixed), to_numpy(alone))
    np.testing.assert_array_equal(to_numpy(targets["labels"]), to_numpy(soft))
    np.testing.assert_allclose(
        to_numpy(targets["teacher"]), to_numpy(alone).mean(axis=(1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("activation", ["softmax", None], ids=["probabilities", "logits"])
@pytest.mark.parametrize("rescaled", [True, False], ids=["rescales", "normalised"])
def test_a_keras_teacher_gets_images_as_it_takes_them(tmp_path, activation, rescaled):
    model = linear(activation=activation, rescaled=rescaled)
    model.save(tmp_path / "linear.keras")
    pixels = random_images(3).astype("float32")
    images = ops.convert_to_tensor(pixels)
    logits = to_numpy(matched(tmp_path / "linear.keras", data())(images))
    np.testing.assert_array_equal(to_numpy(images), pixels)  # the student gets them after it
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = to_numpy(model(pixels if rescaled else normalised.astype("float32")))
    expected = expected if activation else softmax(expected)
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-6)


def test_a_teacher_of_another_size_gets_images_of_that(tmp_path):
    model = linear((16, 20, 3))
    model.save(tmp_path / "linear.keras")
    colours = random_images(3, image_shape=(1, 1, 3))
    found = answers(matched(tmp_path / "linear.keras", data()), colours.repeat(8, 1).repeat(12, 2))
    expected = model(ops.convert_to_tensor(colours.repeat(16, 1).repeat(20, 2).astype("float32")))
    np.testing.assert_allclose(found, to_numpy(expected), atol=1e-5)


def test_classes_are_matched_by_name(tmp_path):
    model, names = linear(), ["e", "a", "d", "b", "c"]
    attach_record(model, names)
    model.save(tmp_path / "linear.keras")
    pixels = random_images(3)
    found = answers(matched(tmp_path / "linear.keras", data(names=sorted(names))), pixels)
    expected = to_numpy(model(ops.convert_to_tensor(pixels.astype("float32"))))
    np.testing.assert_allclose(found, expected[:, [1, 3, 4, 2, 0]], atol=1e-6)
    with pytest.raises(ValueError, match=r"distill\.teacher=.*'e', 'a'.*'f'"):
        matched(tmp_path / "linear.keras", data(names=["a", "b", "c", "d", "f"]))
    with pytest.raises(ValueError, match="has 5 classes, .* has 7"):
        matched(tmp_path / "linear.keras", data(7))


def test_a_teacher_of_keras_applications(monkeypatch):
    model = linear(rescaled=False)

    def of_resnet(weights):
        assert weights == "imagenet"
        return model

    of_resnet.__module__ = keras.applications.ResNet50.__module__
    monkeypatch.setattr(keras.applications, "ResNet50", of_resnet)
    pixels = random_images(3).astype("float32")
    found = answers(matched("ResNet50", data()), pixels)
    caffe = pixels[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    np.testing.assert_allclose(found, to_numpy(model(ops.convert_to_tensor(caffe))), atol=1e-5)


@pytest.mark.by_default_on("tensorflow", "torch")
@pytest.mark.hub
def test_a_teacher_of_keras_hub(tmp_path):
    from keras_hub.layers import ImageConverter
    from keras_hub.models import ImageClassifierPreprocessor

    from keras_sepvit import hub

    # Not ImageNet's numbers, by which any model without a layer that normalises gets its images.
    converter = ImageConverter((32, 32), scale=1 / 127.5, offset=-1)
    classifier = hub.SepViTImageClassifier(
        hub.SepViTBackbone.from_variant(SMALL_DIGITS, image_shape=(32, 32, 3)),
        num_classes=CLASSES,
        preprocessor=ImageClassifierPreprocessor(converter),
    )
    randomize(classifier.output_dense)
    classifier.save(tmp_path / "hub.keras")
    pixels = random_images(2, image_shape=(32, 32, 3))
    expected = softmax(to_numpy(classifier(ops.convert_to_tensor(pixels / np.float32(127.5) - 1))))
    found = answers(matched(tmp_path / "hub.keras", data()), pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_exported_teacher_runs_within_the_step(tmp_path):
    pixels = random_images(3)
    teacher = matched(write_onnx(tmp_path / "linear.onnx"), data())
    taught = TaughtAugmentation(BatchAugmentation(CLASSES), teacher)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        taught = tf.function(taught)
    batch = {"image": pixels, "label": np.arange(3, dtype="int32")}
    _, targets = run(taught, batch)
    np.testing.assert_allclose(softmax(targets["teacher"]), probabilities(pixels), atol=1e-5)


@pytest.mark.thorough
@pytest.mark.once
def test_exported_teachers_say_what_the_keras_model_says(teacher_file, tmp_path):
    from keras_sepvit.export import to_litert, to_onnx

    model = keras.saving.load_model(teacher_file)
    to_litert(model, tmp_path / "teacher.tflite", verbose=False)
    to_onnx(model, tmp_path / "teacher.onnx", verbose=False)
    source = data(10, [str(digit) for digit in range(10)])
    # The noise of random erasing is outside of 0..255.
    pixels = np.random.default_rng(0).uniform(-90, 380, (5, 32, 32, 3)).astype("float32")
    labels, student = np.eye(10, dtype="float32")[:5], ops.zeros((5, 10))

    def loss(name):
        logits = matched(tmp_path / name, source)(ops.convert_to_tensor(pixels))
        targets = {"labels": ops.convert_to_tensor(labels), "teacher": logits}
        parts = distillation_losses(targets, student, weight=1, temperature=3, hard=False)
        return float(parts["distillation"][0]) / 5

    expected = loss(teacher_file)
    assert expected > 1e-2
    assert loss("teacher.tflite") == pytest.approx(expected, abs=1e-4)
    assert loss("teacher.onnx") == pytest.approx(expected, abs=1e-4)


def test_what_is_no_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"distill\.teacher=.*no such file"):
        Teacher(str(tmp_path / "none.keras"))
    with pytest.raises(ValueError, match=r"keras\.applications.*KerasHub"):
        Teacher("no_such_network")
    with pytest.raises(ValueError, match=r"Did you mean `ConvNeXtTiny`\?"):
        Teacher("ConvNextTiny")
    linear(activation="sigmoid").save(tmp_path / "sigmoid.keras")
    with pytest.raises(ValueError, match="sigmoid"):
        Teacher(str(tmp_path / "sigmoid.keras"))
    linear((8, 12, 1)).save(tmp_path / "grey.keras")
    with pytest.raises(ValueError, match="1 channel"):
        Teacher(str(tmp_path / "grey.keras"))
    maps = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1), layers.Conv2D(4, 1)])
    maps.save(tmp_path / "maps.keras")
    with pytest.raises(ValueError, match="segmentation"):
        Teacher(str(tmp_path / "maps.keras"))


@pytest.mark.once("tensorflow")
def test_an_exported_file_of_sigmoids_is_refused_before_a_run(tmp_path):
    """Nothing in it tells: its answers to two images do."""
    import tensorflow as tf

    model = linear(activation="sigmoid")
    for variable in model.weights:  # nowhere 0 or 1, of which one might be 1
        variable.assign(1e-3 * variable)
    signature = tf.TensorSpec((1, *SHAPE), tf.float32)
    function = tf.function(model).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    (tmp_path / "sigmoid.tflite").write_bytes(converter.convert())
    with pytest.raises(ValueError, match=r"distill\.teacher=.*(sum up to|no probabilities)"):
        Teacher(str(tmp_path / "sigmoid.tflite"))


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("weight=1.5", "from 0 to 1"),
        ("weight=-0.1", "from 0 to 1"),
        ("weight=0.7", "null without distill.teacher"),
        ("hard=true", "false without distill.teacher"),
        ("temperature=0", "above 0"),
        ("sha256=abc", "64 hexadecimal"),
    ],
)
def test_settings_out_of_range_are_refused(change, expected):
    with pytest.raises(ValueError, match=rf"distill\.{change.split('=')[0]} must be {expected}"):
        recipe(f"distill.{change}")


def test_weights_are_those_of_deit_unless_given():
    assert recipe().distill.share == 0
    assert recipe("distill.weight=0").distill.share == 0
    assert recipe("distill.teacher=x.keras").distill.share == 0.1
    assert recipe("distill.teacher=x.keras", "distill.hard=true").distill.share == 0.5


# Runs


def two_losses(folder, *changes):
    trainer = Trainer(recipe(*changes), folder)
    batch = trainer.first_batch()
    return [trainer.train_step(batch) for _ in range(2)]


@pytest.mark.thorough
def test_a_teacher_without_weight_changes_nothing(teacher_file, tmp_path):
    alone = two_losses(tmp_path / "alone")
    teacher = f"distill.teacher={teacher_file}"
    assert two_losses(tmp_path / "none", teacher, "distill.weight=0") == alone
    barely = two_losses(tmp_path / "barely", teacher, "distill.weight=1e-9")
    assert barely == pytest.approx(alone, rel=1e-6)  # the first weights and draws are the same


@pytest.mark.by_default_on("torch")
def test_a_student_with_its_teachers_weights_has_nothing_to_learn(teacher_file, tmp_path):
    changes = f"distill.teacher={teacher_file}", f"model.weights={teacher_file}"
    loss, _ = two_losses(tmp_path, *changes, "distill.weight=1")
    assert abs(loss) < 1e-5
    other, _ = two_losses(tmp_path, changes[0], "distill.weight=1")
    assert other > 1e-2


@pytest.mark.thorough
def test_an_exported_teacher_of_a_run(tmp_path):
    """Of another size, and with its classes in another order."""
    file = write_onnx(tmp_path / "teacher.onnx", class_names=NAMES[::-1])
    folder = write_folder(tmp_path / "data", NAMES, 4)
    changes = f"data.name=folder:{folder}", "batch_size=4", "distill.hard=true"
    trainer = Trainer(recipe(*changes, f"distill.teacher={file}"), tmp_path / "run")
    logs = trainer.train(verbose=0).history[-1]
    assert logs["distillation"] > 0
    assert logs["cross_entropy"] + logs["distillation"] == pytest.approx(logs["loss"])


@pytest.mark.thorough
def test_a_run_tells_its_teacher_and_keeps_it_out_of_its_files(teacher_file, distilled, capsys):
    trainer, folder, history = distilled
    for logs in history:
        assert logs["distillation"] > 0
        assert logs["cross_entropy"] + logs["distillation"] == pytest.approx(logs["loss"])
    assert history[1]["distillation"] < history[0]["distillation"]
    parameters = SepViT(SMALL_DIGITS, input_shape=(32, 32, 3), classes=10).count_params()
    for name in ("best.keras", "last.keras"):
        assert keras.saving.load_model(folder / name).count_params() == parameters
    assert len(trainer.model.optimizer._trainable_variables) == len(
        trainer.network.trainable_variables
    )
    with np.load(folder / "checkpoint.npz") as file:
        model = sum(file[name].size for name in file.files if name.startswith("model."))
    assert parameters <= model < parameters + 100  # with states of random numbers
    assert read_header(folder / "checkpoint.npz")["progress"]["epoch"] == 2
    Trainer(recipe(f"distill.teacher={teacher_file}", "distill.weight=0.5"), folder).train(1)
    assert (
        f"Teacher: {teacher_file}, 10 classes, images of 32 x 32, pixels of 0..255; "
        "soft at temperature 3, 50 % of the loss." in capsys.readouterr().out
    )


@pytest.mark.thorough
def test_a_run_goes_on_with_the_same_file_only(teacher_file, distilled, tmp_path):
    _, finished, _ = distilled
    folder, file = shutil.copytree(finished, tmp_path / "run"), tmp_path / "teacher.keras"
    teacher = f"distill.teacher={file}"
    settings = folder / "recipe.yaml"
    settings.write_text(settings.read_text().replace(str(teacher_file), str(file)))
    shutil.copy(teacher_file, file)
    Trainer(recipe(teacher, "distill.weight=0.5"), folder)
    linear((32, 32, 3), 10).save(file)
    with pytest.raises(ValueError, match="another file than the teacher"):
        Trainer(recipe(teacher, "distill.weight=0.5"), folder)


@pytest.mark.thorough
def test_a_killed_run_with_a_teacher_ends_with_the_same_weights(teacher_file, distilled, tmp_path):
    _, folder, history = distilled
    changes = [*SHORT, f"distill.teacher={teacher_file}", "distill.weight=0.5"]
    results = "loss", "cross_entropy", "distillation", "val_loss"
    check_a_killed_run("digits", changes, tmp_path / "killed", folder, history, results)
