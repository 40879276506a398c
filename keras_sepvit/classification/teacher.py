"""The teacher of distillation: a classifier of any kind, from a student's images to logits."""

import dataclasses
import functools
import hashlib
import inspect
import pathlib
import sys
import warnings
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from keras_sepvit import scores
from keras_sepvit.inference import attach_record, load_model
from keras_sepvit.resizing import resize_bilinear
from keras_sepvit.runtime import SUFFIXES, ImageClassifier, Predictor
from keras_sepvit.runtime import labels as naming
from keras_sepvit.training import device
from keras_sepvit.training.evaluation import class_order
from keras_sepvit.validation import as_sentence, counted, did_you_mean

# Probabilities become logits by their logarithm, from the smallest on that float32 holds well.
_LEAST = 1e-37


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """What a teacher is made of.

    Attributes:
        outputs: Function from float32 images of 0..255 at `size` to outputs (batch, classes).
        size: (height, width) of the images; None for any.
        classes: Number of classes.
        class_names: Their names in order, or None.
        gives_logits: Whether outputs are logits, not probabilities.
        pixels: How it takes their pixels, in words.
        on_host: Whether `outputs` is of NumPy arrays, not of tensors.
    """

    outputs: Callable
    size: tuple | None
    classes: int
    class_names: tuple | None
    gives_logits: bool
    pixels: str
    on_host: bool = False


class Teacher:
    """A classifier whose answers a student learns: images to logits, without a gradient.

    It is no layer, and a layer that holds it has none of its weights: they are not trained, and in
    no model or checkpoint of the run. Each teacher gets images in its own way: at its size,
    resized bilinearly, and normalised as it takes them, as `keras_sepvit.inference` tells for
    Keras models, the `preprocess_input` of `keras.applications`, KerasHub's image converter, and
    the record in exported files. It computes in its own dtypes.

    Args:
        name: A `.keras`, `.tflite` or `.onnx` file, the name of a classifier of
            `keras.applications`, such as `ConvNeXtTiny`, with its weights of ImageNet, or a preset
            of KerasHub's image classifiers, such as `resnet_50_imagenet`, or its folder.
        sha256: What the checksum of a file must be; None for any.

    Attributes:
        name: As given.
        sha256: Checksum of the file; None of a name.

    Input: float32 images (batch, height, width, 3) of about 0..255, of any size.

    Output: float32 logits (batch, classes), in the order of `match`'s source.

    Raises:
        ValueError: if there is no such classifier, it cannot be read, is another file than that of
            `sha256`, or gives no probabilities that sum up to 1.
    """

    def __init__(self, name, sha256=None):
        self.name = name
        path = pathlib.Path(name).expanduser()
        is_file = path.suffix.lower() in (".keras", *SUFFIXES)
        try:
            self.sha256 = _checksum(path) if is_file else None
            if sha256 not in (None, self.sha256):
                raise ValueError(
                    f"it is another file than the teacher of this recipe: its SHA-256 is "
                    f"{self.sha256}, distill.sha256 is {sha256}. Give the old file, or begin a new "
                    "run in another folder, with distill.sha256=null."
                )
            self._classifier = _of_file(path) if is_file else _of_name(name)
            self._try()
        except (ValueError, OSError) as error:
            raise ValueError(f"distill.teacher={name}: {error}") from error
        self._order = None

    def __str__(self):
        classifier = self._classifier
        size = classifier.size
        pixels = "of any size" if size is None else f"of {size[0]} x {size[1]}"
        classes = counted(classifier.classes, "class")
        return f"{self.name}, {classes}, images {pixels}, pixels {classifier.pixels}"

    def _try(self):
        """Refuses what gives no probabilities, before a run begins."""
        height, width = self._classifier.size or (64, 64)
        noise = np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype("float32")
        outputs = self._outputs(ops.convert_to_tensor(noise))
        outputs = ops.convert_to_numpy(outputs)
        if not np.all(np.isfinite(outputs)):
            raise ValueError("its outputs are not finite.")
        sums = outputs.sum(axis=-1)
        if not self._classifier.gives_logits and not np.allclose(sums, 1, atol=0.01):
            raise ValueError(
                f"its outputs sum up to {sums[0]:.3g}: expected the probabilities of a softmax, or "
                "the logits of a .keras file."
            )

    def match(self, source):
        """Gives logits in the order of a source's classes, matched by name where both have names.

        Raises:
            ValueError: if the source has other classes, or another number of them.
        """
        if self._classifier.classes != source.classes:
            raise ValueError(
                f"distill.teacher={self.name} has {counted(self._classifier.classes, 'class')}, "
                f"and {source} has {source.classes:,}. Take a teacher of the same classes."
            )
        try:
            self._order = class_order(self._classifier.class_names, source)
        except ValueError as error:
            raise ValueError(f"distill.teacher={self.name}: {error}") from error

    def decide(self, recipe, devices):
        """Writes into a recipe what this teacher asks for; arguments and result as of a `Task`.

        Raises:
            ValueError: for devices and settings that do not go with an exported file, which runs
                on the host.
        """
        recipe.distill.sha256 = self.sha256
        backend = keras.config.backend()
        if not self._classifier.on_host or backend == "torch":
            return {}
        if devices > 1:
            raise ValueError(
                f"distill.teacher={self.name} runs on the host, which {devices} devices of the "
                f"{backend} backend cannot share. Use distribution=none, the torch backend, or the "
                ".keras file of the teacher."
            )
        if backend == "jax":
            return {}
        if recipe.jit_compile:
            raise ValueError(
                f"jit_compile=true does not work with distill.teacher={self.name}, which runs on "
                "the host: XLA cannot call it. Use jit_compile=null, or the teacher's .keras file."
            )
        recipe.jit_compile = False
        return {"jit_compile": "false (the teacher runs on the host)"}

    def __call__(self, images):
        classifier = self._classifier
        if classifier.size is not None:
            images = resize_bilinear(images, classifier.size)
        outputs = self._outputs(images)
        logits = outputs if classifier.gives_logits else ops.log(ops.maximum(outputs, _LEAST))
        if self._order is not None:
            logits = ops.take(logits, np.array(self._order, "int32"), axis=-1)
        return ops.stop_gradient(logits)

    def _outputs(self, images):
        """float32 outputs (batch, classes) for images of its size."""
        classifier = self._classifier
        if classifier.on_host:
            shape = (images.shape[0], classifier.classes)
            return device.call_on_host(classifier.outputs, images, shape)
        return ops.cast(classifier.outputs(images), "float32")


class TaughtAugmentation(layers.Layer):
    """An augmentation whose images a teacher sees as the student does: erased and mixed.

    Args:
        augmentation: A `BatchAugmentation`.
        teacher: Function from its images to logits (batch, classes), such as a `Teacher`.

    Input: as of `augmentation`.

    Output: its images, and a dict of its soft targets, `"labels"`, and the teacher's logits for the
        images, `"teacher"`, both float32 (batch, classes).
    """

    def __init__(self, augmentation, teacher, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.augmentation = augmentation
        self.teacher = teacher
        self.built = True

    def call(self, batch):
        images, labels = self.augmentation(batch)
        return images, {"labels": labels, "teacher": self.teacher(images)}


def _checksum(path):
    if not path.is_file():
        raise FileNotFoundError("there is no such file.")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_file(path):
    if path.suffix.lower() == ".keras":
        return _of_keras(load_model(path))
    predictor = Predictor(path)
    if not isinstance(predictor, ImageClassifier):
        raise ValueError(f"it is no image classifier. {predictor.hint}")
    height, width, channels = predictor.image_shape
    if predictor.record is not None:
        _check(channels, predictor.record.activation)
    classes = len(predictor.class_names)
    named = predictor.class_names != naming.numbered(classes)

    def outputs(images):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the noise of random erasing is beyond 0..255
            return predictor.predict(images)

    return _Classifier(
        outputs,
        size=(height, width),
        classes=classes,
        class_names=tuple(predictor.class_names) if named else None,
        gives_logits=False,
        pixels="as its record tells" if predictor.record else "of 0..255",
        on_host=True,
    )


def _of_name(name):
    """The classifier of `keras.applications`, else the preset of KerasHub, of a name."""
    application = getattr(keras.applications, name, None)
    preprocess = None
    try:
        if inspect.isfunction(application):
            model = application(weights="imagenet")
            # Each family has a module, with what its images go through.
            of_family = sys.modules[application.__module__].preprocess_input
            preprocess = functools.partial(_preprocessed, of_family)
        else:
            from keras_hub.models import ImageClassifier as HubClassifier

            model = HubClassifier.from_preset(name)
    except Exception as error:  # plain ones where a download fails
        known = [
            key for key, value in vars(keras.applications).items() if inspect.isfunction(value)
        ]
        hint = did_you_mean(name, known)
        if (pathlib.Path(name) / "best.keras").is_file():
            hint = f" Take '{pathlib.Path(name) / 'best.keras'}'."
        raise ValueError(
            "it is no .keras, .tflite or .onnx file, and as the name of a classifier of "
            "keras.applications or of a preset of KerasHub it cannot be loaded: "
            f"{as_sentence(error)}{hint}"
        ) from error
    return _of_keras(model, preprocess)


def _of_keras(model, preprocess=None):
    """A Keras model; `preprocess` makes what it takes of images of 0..255, None for as it tells."""
    known = getattr(model, "record", None)
    record = attach_record(model, known and known.class_names)
    if record.task != "classification":
        raise ValueError(f"it is a model of {record.task}. Expected an image classifier.")
    activation, missing = scores.activations(model)
    _check(record.channels, activation)
    size = record.image_size
    pixels = "of 0..255" if preprocess is None else "by its family's preprocess_input"
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)  # KerasHub's
    if converter is not None:
        pixels = "by its image converter"
        preprocess = functools.partial(_converted, converter)
        size = converter.image_size or size
    elif preprocess is None and record.pixels == "imagenet":
        of_torch = keras.applications.imagenet_utils.preprocess_input
        preprocess = functools.partial(_preprocessed, of_torch, mode="torch")
        pixels = "normalised by ImageNet's mean and deviation, since the file tells nothing else"
    model.trainable = False  # so that nothing is kept for gradients

    def outputs(images):
        return model(preprocess(images) if preprocess else images, training=False)

    return _Classifier(
        outputs,
        size=None if None in size else tuple(size),
        classes=model.output_shape[-1],
        class_names=record.class_names,
        gives_logits=missing != "none",
        pixels=pixels,
    )


def _preprocessed(preprocess_input, images, **options):
    """Images by a function of `keras.applications`, which changes tensors of torch in place."""
    return preprocess_input(ops.copy(images), data_format="channels_last", **options)


def _converted(converter, images):
    """Images by the scale and offset of an image converter of KerasHub.

    The converter itself may leave the device for TensorFlow's operations.
    """
    if converter.scale is not None:
        images = images * ops.convert_to_tensor(np.float32(converter.scale))
    if converter.offset is not None:
        images = images + ops.convert_to_tensor(np.float32(converter.offset))
    return images


def _check(channels, activation):
    if channels != 3:
        raise ValueError(f"it takes images of {counted(channels, 'channel')}; expected 3 (RGB).")
    if activation != "softmax":
        raise ValueError(
            f"it gives a {activation}'s probabilities, of each class by itself; expected those of "
            "a softmax, or logits."
        )
