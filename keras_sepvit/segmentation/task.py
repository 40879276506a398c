"""Semantic segmentation as the engine's task."""

import functools

import keras
from keras import ops

from keras_sepvit import __version__
from keras_sepvit.configs import SCENES_CONFIG, SCENES_VARIANT
from keras_sepvit.record import Record
from keras_sepvit.segmentation.images import TrainTransform
from keras_sepvit.segmentation.losses import IGNORED, segmentation_losses
from keras_sepvit.segmentation.maps import check_maps
from keras_sepvit.segmentation.picture import draw_maps
from keras_sepvit.segmentation.report import SegmentationReport
from keras_sepvit.segmentation.scores import SegmentationScores
from keras_sepvit.segmentation.semantic_fpn import SemanticFPN
from keras_sepvit.segmentation.sources import open_splits
from keras_sepvit.segmentation.upernet import UPerNet
from keras_sepvit.training.automatic import decided
from keras_sepvit.training.canvas import place
from keras_sepvit.training.sample import sample_pictures
from keras_sepvit.training.task import Task
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.weights import check_pretrained
from keras_sepvit.weights.warm_start import check_start, start_network

# Learning rates of batches of 16, from random weights and from trained ones.
_SCRATCH_RATE = 1e-3
_TRAINED_RATE = 2e-4


class Segmentation(Task):
    """Pictures with class maps: cross-entropy of all pixels, mean IoU.

    Examples have a `"map"`: in training uint8 (height, width), of the image's size; in evaluation
    a PNG, a scalar string, of the photo's own size.

    Args:
        recipe: A `SegmentationRecipe`.
    """

    best = "miou"
    curves = ("miou", "macc", "aacc")

    @property
    def loss_names(self):
        auxiliary = self.recipe.model.head == "upernet"
        return ("decode_loss", "auxiliary_loss") if auxiliary else ("decode_loss",)

    def open(self):
        check_pretrained(self.recipe.model.weights)  # before data are prepared
        check_start(self.recipe.model.warm_start)
        data = self.recipe.data
        self.source, self.validation_source = open_splits(
            data.name, data.train_split, data.validation_split
        )
        return self.source, self.validation_source

    def check_data(self):
        sources = [self.source, self.validation_source]
        return "\n".join(check_maps(source) for source in sources if source is not None)

    def decide(self, devices):
        self.recipe, chosen = decided(
            self.recipe, self.source.size, devices, _SCRATCH_RATE, _TRAINED_RATE
        )
        model = self.recipe.model
        if model.weights is None and model.warm_start is None and model.variant != SCENES_VARIANT:
            chosen["model.weights"] = (
                "null (all weights start at random; results as published need ImageNet's: "
                "model.weights=FILE)"
            )
        return chosen

    @property
    def _image_size(self):
        return self.recipe.model.image_size

    @functools.cached_property
    def _transform(self):
        settings = self.recipe.augmentation
        return TrainTransform(
            image_size=self._image_size,
            scale=settings.scale,
            sides=settings.sides or (min(self._image_size), 4 * min(self._image_size)),
            largest_share=settings.largest_share,
            flip=settings.flip,
            distortion=settings.distortion,
        )

    def transform(self, example, seed):
        image, class_map = self._transform(example["image"], example["map"], seed)
        return {"image": image, "map": class_map, "fault": self._fault(self.source, example)}

    def transform_for_evaluation(self, example):
        return {
            "image": place(example["image"], self._image_size)[0],
            "map": tf.io.encode_png(example["map"][..., tf.newaxis]),
            "fault": self._fault(self.validation_source, example),
        }

    def _fault(self, source, example):
        class_map = example["map"]
        unknown = (class_map >= source.classes) & (class_map != IGNORED)
        return tf.cond(
            tf.reduce_any(unknown),
            lambda: tf.strings.join(
                [
                    f"A mask of {source.name} ({source.split}) has a class out of range: expected "
                    f"0 to {source.classes - 1}, and {IGNORED} for none. Received: ",
                    tf.strings.as_string(tf.reduce_max(tf.where(unknown, class_map, 0))),
                ]
            ),
            lambda: "",
        )

    def build(self, dtype, weights=None):
        network = self._network(dtype, weights)
        network.backbone.freeze(self.recipe.model.frozen_stages)
        return network

    def start(self, network):
        pictures = self.source, self._image_size, self.recipe.seed
        sample = functools.partial(sample_pictures, *pictures)
        return start_network(network, self.recipe.model.warm_start, sample)

    def augmentation(self, part):
        return ImagesAndMaps()

    def losses(self, targets, outputs):
        return segmentation_losses(targets, outputs)

    def answers(self, outputs):
        return ops.cast(outputs, "float32")

    def deployed(self):
        network = self._network("float32", weights=None)
        network.record = self._record
        return network

    def scores(self):
        return SegmentationScores(self.source.classes)

    def report(self):
        return SegmentationReport(self.source.classes, self.source.class_names)

    def files(self):
        return self._record.files()

    @property
    def _record(self):
        """How `deployed` is evaluated."""
        return Record(
            task="segmentation",
            image_size=self._image_size,
            channels=3,
            pixels="0..255",
            crop=None,
            interpolation="bilinear",
            activation="linear",
            class_names=self.source.class_names,
            version=__version__,
        )

    def draw_batch(self, path, images, targets):
        draw_maps(path, images, targets, self.source.class_names)

    def _network(self, dtype, weights):
        settings = self.recipe.model
        variant = SCENES_CONFIG if settings.variant == SCENES_VARIANT else settings.variant
        arguments = {
            "num_classes": self.source.classes,
            "image_shape": (*self._image_size, 3),
            "weights": weights,
            "dropout": settings.dropout,
            "drop_path_rate": settings.drop_path_rate,
            "dtype": dtype,
        }
        channels = settings.channels
        if settings.head == "upernet":
            if channels is not None:
                arguments.update(head_channels=channels, auxiliary_channels=channels)
            return UPerNet(variant, **arguments)
        if channels is not None:
            arguments.update(head_channels=channels, neck_channels=channels)
        return SemanticFPN(variant, **arguments)


class ImagesAndMaps(keras.layers.Layer):
    """A batch's images and class maps: all augmentation has been done before."""

    def call(self, batch):
        return batch["image"], batch["map"]
