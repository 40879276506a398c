"""Detection as the engine's task."""

import functools

import keras
import numpy as np
from keras import ops

from keras_sepvit import __version__
from keras_sepvit.configs import SCENES_128_CONFIG, SCENES_VARIANT
from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.check import check_boxes
from keras_sepvit.detection.decoding import retinanet_detections
from keras_sepvit.detection.images import TrainTransform
from keras_sepvit.detection.losses import retinanet_losses
from keras_sepvit.detection.picture import draw_labelled
from keras_sepvit.detection.report import DetectionReport
from keras_sepvit.detection.retinanet import RetinaNet
from keras_sepvit.detection.scores import DetectionScores
from keras_sepvit.detection.sources import open_splits
from keras_sepvit.record import Record
from keras_sepvit.runtime.canvas import turned
from keras_sepvit.training.automatic import decided
from keras_sepvit.training.canvas import place
from keras_sepvit.training.sample import sample_pictures
from keras_sepvit.training.task import Task
from keras_sepvit.weights import check_pretrained
from keras_sepvit.weights.warm_start import check_start, start_network

# Learning rates of batches of 16, from random weights and from trained ones.
_SCRATCH_RATE = 1e-3
_TRAINED_RATE = 2e-4


class Detection(Task):
    """Pictures with boxes: focal loss and L1 of a RetinaNet, COCO's average precision.

    Examples have `"boxes"` float32 (most, 4), left, top, right, bottom, and `"labels"` int32
    (most,), padded with -1. In training the boxes are in the canvas's pixels, and `"size"` int32
    (2,) is (height, width) of the photo on it. In evaluation they are in the photo's own, of
    `"photo_size"`, `"crowd"` bool and `"area"` float32 (most,) tell more of them, and `"id"` is the
    photo's in its data, as JSON.

    Where the canvas is no square, photos that stand are a group of their own, whose canvas is
    turned.

    Args:
        recipe: A `DetectionRecipe`.
    """

    _open_splits = staticmethod(open_splits)
    _network_class = RetinaNet
    _network_settings = ("drop_path_rate", "anchor_scale", "channels", "num_convs")

    loss_names = ("class_loss", "box_loss")
    best = "ap"
    curves = ("ap", "ap50", "ap75")

    def open(self):
        check_pretrained(self.recipe.model.weights)  # before data are prepared
        check_start(self.recipe.model.warm_start)
        data = self.recipe.data
        self.source, self.validation_source = self._open_splits(
            data.name, data.train_split, data.validation_split, keep_empty=data.keep_empty
        )
        if not self._square:
            for source in (self.source, self.validation_source):
                if source is not None:
                    source.groups = turned(self._image_size, source.sizes).astype(int)
        return self.source, self.validation_source

    def check_data(self):
        sources = [self.source, self.validation_source]
        return "\n".join(check_boxes(source) for source in sources if source is not None)

    def decide(self, devices):
        self.recipe, chosen = decided(
            self.recipe, self.source.size, devices, _SCRATCH_RATE, _TRAINED_RATE
        )
        model, groups = self.recipe.model, self.source.groups
        if model.weights is None and model.warm_start is None and model.variant != SCENES_VARIANT:
            chosen["model.weights"] = (
                "null (all weights start at random; results as published need ImageNet's: "
                "model.weights=FILE)"
            )
        batch = self.recipe.batch_size // self.recipe.accumulate
        if groups is not None and any(0 < np.sum(groups == group) < batch for group in (0, 1)):
            # Those that fill no batch would never be trained on.
            self.source.groups = np.full_like(groups, groups.mean() > 0.5)
            canvas = list(self._canvas_size(self.source.groups[0]))
            chosen["model.image_size"] = (
                f"{canvas} in training (pictures of the other orientation fill no batch)"
            )
        return chosen

    @property
    def _image_size(self):
        return self.recipe.model.image_size

    @property
    def _square(self):
        return self._image_size[0] == self._image_size[1]

    def _canvas_size(self, group):
        return self._image_size[::-1] if group else self._image_size

    @functools.cached_property
    def _transforms(self):
        """What is done to training pictures, by group."""
        settings = self.recipe.augmentation
        sides, longest = settings.sides(self._image_size)
        return [
            TrainTransform(
                image_size=self._image_size,
                flip=settings.flip,
                short_sides=sides,
                long_side=longest,
                crops=settings.crops,
                distortion=settings.distortion,
                visible=settings.visible,
                turned=group,
            )
            for group in (False, True)
        ]

    def transform(self, example, seed):
        transform = self._transforms[example.get("group", 0)]
        image, boxes, labels, size = transform(
            example["image"], example["boxes"], example["labels"], seed
        )
        return {"image": image, "boxes": boxes, "labels": labels, "size": size}

    def transform_for_evaluation(self, example):
        canvas, _ = place(example["image"], self._canvas_size(example.get("group", 0)))
        keys = ("photo_size", "id", "boxes", "labels", "crowd", "area")
        return {"image": canvas, **{key: example[key] for key in keys}}

    def build(self, dtype, weights=None):
        network = self._network(dtype, weights)
        network.backbone.freeze(self.recipe.model.frozen_stages)
        return network

    def start(self, network):
        pictures = self.source, self._image_size, self.recipe.seed
        sample = functools.partial(sample_pictures, *pictures)
        return start_network(network, self.recipe.model.warm_start, sample)

    def augmentation(self, part):
        return ImagesAndBoxes()

    @property
    def _anchors(self):
        return Anchors(scale=self.recipe.model.anchor_scale)

    def losses(self, targets, outputs):
        return retinanet_losses(targets, outputs, self._anchors)

    def answers(self, outputs):
        size = self._image_size
        if not self._square:
            rows, columns = ops.shape(outputs["classes"][0])[1:3]
            as_it_is = ops.equal(rows > columns, size[0] > size[1])
            pairs = zip(size, size[::-1], strict=True)
            size = [ops.where(as_it_is, side, other) for side, other in pairs]
        return retinanet_detections(outputs, self._anchors, size)

    def deployed(self):
        network = self._network("float32", weights=None)
        network.record = self._record
        return network

    def scores(self):
        return DetectionScores(self.source.classes)

    def report(self):
        source = self.source
        return DetectionReport(source.classes, source.class_names, source.category_ids)

    def files(self):
        return self._record.files()

    @property
    def _record(self):
        """How `deployed` is evaluated."""
        return Record(
            task=self.recipe.task,
            image_size=self._image_size,
            channels=3,
            pixels="0..255",
            crop=None,
            interpolation="bilinear",
            activation=None,
            class_names=self.source.class_names,
            category_ids=self.source.category_ids,
            version=__version__,
        )

    def draw_batch(self, path, images, targets):
        draw_labelled(path, images, targets, self.source.class_names)

    def _network(self, dtype, weights):
        settings = self.recipe.model
        return self._network_class(
            SCENES_128_CONFIG if settings.variant == SCENES_VARIANT else settings.variant,
            num_classes=self.source.classes,
            image_shape=(*self._image_size, 3) if self._square else None,
            weights=weights,
            dtype=dtype,
            **{name: getattr(settings, name) for name in self._network_settings},
        )


class ImagesAndBoxes(keras.layers.Layer):
    """A batch's images and boxes: all augmentation has been done before."""

    def call(self, batch):
        targets = {"boxes": batch["boxes"], "labels": batch["labels"], "sizes": batch["size"]}
        return batch["image"], targets
