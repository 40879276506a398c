"""Classification as the engine's task."""

import functools
import itertools
import pathlib

import keras

from keras_sepvit import __version__
from keras_sepvit.classification.automatic import decided
from keras_sepvit.classification.classifier import SepViT
from keras_sepvit.classification.images import EvalTransform, TrainTransform
from keras_sepvit.classification.losses import (
    distillation_losses,
    probabilities,
    soft_cross_entropy,
)
from keras_sepvit.classification.mixing import BatchAugmentation, draw_erasing, draw_mixing
from keras_sepvit.classification.picture import draw_classes
from keras_sepvit.classification.report import ClassificationReport
from keras_sepvit.classification.scores import ClassificationScores
from keras_sepvit.classification.teacher import TaughtAugmentation, Teacher
from keras_sepvit.configs import DIGITS_CONFIG, DIGITS_VARIANT
from keras_sepvit.record import Record
from keras_sepvit.training.sample import sample_pictures
from keras_sepvit.training.sources.labelled import open_splits
from keras_sepvit.training.task import Task
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.weights import check_pretrained
from keras_sepvit.weights.warm_start import check_start, start_network

# Folders that are no classes: pictures with their masks, for segmentation.
_OF_MASKS = ({"images", "masks"}, {"images", "annotations"})
# Files of folders whose pictures have boxes, for detection.
_OF_BOXES = ("*/_annotations.coco.json", "annotations/instances_*.json", "data.yaml")


class Classification(Task):
    """Images with one label each: cross-entropy of soft targets, top-1 and top-5 accuracy.

    With a teacher (the recipe's `distill`) also the distance from its answers.

    Examples have a `"label"`, int32, in evaluation also a row of 0 and 1 for sets of labels.

    Args:
        recipe: A `ClassificationRecipe`.
    """

    best = "top1"
    curves = ("top1",)
    teacher = None  # until `open`, which reads it

    @property
    def loss_names(self):
        return ("cross_entropy", "distillation") if self.recipe.distill.share else ("loss",)

    def open(self):
        check_pretrained(self.recipe.model.weights)  # before data are prepared
        check_start(self.recipe.model.warm_start)
        self.teacher = self._open_teacher()
        data = self.recipe.data
        _refuse_boxes(data.name)
        self.source, self.validation_source = open_splits(
            data.name, data.train_split, data.validation_split, data.data_dir
        )
        if self.source.multi_label:
            raise ValueError(
                f"{self.source.name} has sets of labels, which serve for evaluation only. Train on "
                "a data set with one label an image."
            )
        if self.source.class_names and set(map(str.lower, self.source.class_names)) in _OF_MASKS:
            raise ValueError(
                f"{self.source.name} has pictures and masks, not classes of pictures. Train a "
                "segmenter on it: keras-sepvit train FOLDER --task segmentation."
            )
        if self.source.classes < 2:
            raise ValueError(
                f"One class is nothing to tell apart: {self.source}. Train on two or more; of "
                "pictures in a folder, each class has a folder of its own in it."
            )
        if self.validation_source is not None:
            _check_validation(self.source, self.validation_source)
        if self.teacher is not None:
            self.teacher.match(self.source)
        return self.source, self.validation_source

    def decide(self, devices):
        self.recipe, chosen = decided(self.recipe, self.source.size, devices)
        if self.teacher is not None:
            chosen.update(self.teacher.decide(self.recipe, devices))
        return chosen

    def note(self):
        if self.teacher is None:
            return ""
        settings = self.recipe.distill
        how = "hard" if settings.hard else f"soft at temperature {settings.temperature:g}"
        return f"Teacher: {self.teacher}; {how}, {100 * settings.share:g} % of the loss."

    def _open_teacher(self):
        settings = self.recipe.distill
        if not settings.share:
            return None
        teacher = Teacher(settings.teacher, settings.sha256)
        # Loading it has drawn numbers: the student begins as it would without a teacher.
        keras.utils.set_random_seed(self.recipe.seed)
        return teacher

    @functools.cached_property
    def _transform(self):
        settings = self.recipe.augmentation
        return TrainTransform(
            image_size=self._image_size,
            scale=settings.crop_scale,
            ratio=settings.crop_ratio,
            interpolation=settings.interpolation or self.recipe.data.interpolation,
            flip=settings.flip,
            auto_augment=settings.auto_augment,
            color_jitter=settings.color_jitter,
            force_color_jitter=settings.force_color_jitter,
        )

    @property
    def _image_size(self):
        return (self.recipe.model.image_size,) * 2

    def transform(self, example, seed):
        return labelled(self.source, example, self._transform(example["image"], seed))

    def transform_for_evaluation(self, example):
        data = self.recipe.data
        transform = EvalTransform(self._image_size, data.validation_crop, data.interpolation)
        return labelled(self.validation_source, example, transform(example["image"]))

    def draw(self, seed, size, part):
        settings = self.recipe.augmentation
        seeds = tf.unstack(tf.random.split(seed, 2))
        draws = {}
        if settings.erase_rate:
            draws["erased"] = draw_erasing(seeds[0], size, self._image_size, settings.erase_rate)
        if settings.mixup or settings.cutmix:
            mixing = settings.mixup, settings.cutmix, settings.cutmix_rate
            draws.update(draw_mixing(seeds[1], size, self._image_size, self._group(part), *mixing))
        return draws

    def _group(self, part):
        largest = self.recipe.augmentation.mixing_group
        return max(size for size in range(1, min(part, largest) + 1) if part % size == 0)

    def start(self, network):
        pictures = self.source, self._image_size, self.recipe.seed
        sample = functools.partial(sample_pictures, *pictures)
        return start_network(network, self.recipe.model.warm_start, sample)

    def augmentation(self, part):
        augmentation = BatchAugmentation(
            self.source.classes,
            self.recipe.augmentation.label_smoothing,
            group=self._group(part),
            seed=self.recipe.seed,
        )
        if self.teacher is None:
            return augmentation
        return TaughtAugmentation(augmentation, self.teacher)

    def build(self, dtype, weights=None):
        network = self._network(dtype, classifier_activation=None, weights=weights)
        network.freeze(self.recipe.model.frozen_stages)
        if self.recipe.model.frozen_backbone:
            for layer in network.layers:
                layer.trainable = layer.name == "head"
        return network

    def deployed(self):
        network = self._network("float32", classifier_activation="softmax", weights=None)
        network.record = self._record
        return network

    def losses(self, targets, outputs):
        settings = self.recipe.distill
        if not settings.share:
            return soft_cross_entropy(targets, outputs)
        return distillation_losses(
            targets,
            outputs,
            weight=settings.share,
            temperature=settings.temperature,
            hard=settings.hard,
        )

    def answers(self, outputs):
        return probabilities(outputs)

    def scores(self):
        return ClassificationScores()

    def report(self):
        return ClassificationReport(self.source.classes, self.source.class_names)

    def files(self):
        return self._record.files()

    @property
    def _record(self):
        """How `deployed` is evaluated."""
        data = self.recipe.data
        return Record(
            task="classification",
            image_size=self._image_size,
            channels=3,
            pixels="0..255",
            crop=data.validation_crop,
            interpolation=data.interpolation,
            activation="softmax",
            class_names=self.source.class_names,
            version=__version__,
        )

    def draw_batch(self, path, images, targets):
        labels = targets if self.teacher is None else targets["labels"]
        draw_classes(path, images, labels, self.source.class_names)

    def _network(self, dtype, classifier_activation, weights):
        settings = self.recipe.model
        return SepViT(
            DIGITS_CONFIG if settings.variant == DIGITS_VARIANT else settings.variant,
            input_shape=(*self._image_size, 3),
            classes=self.source.classes,
            classifier_activation=classifier_activation,
            weights=weights,
            drop_path_rate=settings.drop_path_rate,
            pad_windows=settings.pad_windows,
            residual_in_fp32=settings.residual_in_fp32,
            skip_head_mismatch=True,
            dtype=dtype,
        )


def labelled(source, example, image):
    """An example of an image and its label, or its set of labels; faulty if that is no class."""
    label = example["label"]

    def out_of_range():
        numbers = tf.strings.as_string(tf.reshape(label, [-1]))
        data = f"Labels of {source.name} ({source.split}) are out of range"
        expected = f"expected 0 to {source.classes - 1}. Received: "
        return tf.strings.join(
            [f"{data}: {expected}", tf.strings.reduce_join(numbers, separator=", ")]
        )

    valid = tf.reduce_all((label >= 0) & (label < source.classes))
    fault = tf.cond(valid, lambda: "", out_of_range)
    if source.multi_label:
        label = tf.reduce_max(tf.one_hot(label, source.classes, dtype=tf.uint8), axis=0)
    return {"image": image, "label": label, "fault": fault}


def _refuse_boxes(name):
    """Refuses a folder for detection, whose splits may look like classes."""
    folder = pathlib.Path(name.removeprefix("folder:")).expanduser()
    for file in itertools.chain(*map(folder.glob, _OF_BOXES)):
        raise ValueError(
            f"'{folder}' has pictures with boxes ({file.relative_to(folder)}), not classes of "
            "pictures. Train a detector on it: keras-sepvit train FOLDER --task detection."
        )


def _check_validation(training, validation):
    folder = getattr(training, "folder", None)
    if folder is not None and folder == getattr(validation, "folder", None):
        both = set(training.paths) & set(validation.paths)
        if both:
            raise ValueError(
                f"Training and validation would have {len(both):,} images of '{folder}' in common. "
                "Hold out a fifth with data.train_split=train-fold0 "
                "data.validation_split=validation-fold0, or set data.validation_split=null."
            )
    if validation.multi_label:
        raise ValueError(
            f"{validation} has sets of labels. Use it with `keras-sepvit evaluate`, and "
            "validate on data with one label an image."
        )
    if (training.classes, training.class_names) != (validation.classes, validation.class_names):
        raise ValueError(
            f"The training data {training} and the validation data {validation} have different "
            "classes. Give both splits the same class folders."
        )
