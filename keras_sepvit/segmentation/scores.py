"""Intersection over union of class maps. Without Keras."""

import io

import numpy as np
from PIL import Image

from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.training.task import Scores

_IGNORED = 255  # as in `keras_sepvit.segmentation.losses`, which needs Keras


class SegmentationScores(Scores):
    """Mean intersection over union and accuracies, of one confusion matrix of all pixels.

    As in mmsegmentation: pixels whose true class is 255 do not count; means leave out the classes
    that they cannot be told of.

    Args:
        classes: Number of classes.

    Attributes:
        matrix: int64 (classes, classes): how many pixels of a class, by row, were taken for one,
            by column.
        images: Number of images.

    Results in percent: `miou`, the mean over classes that are true or found anywhere, 0 for those
    that are found alone; `aacc`, the share of pixels that are right; `macc`, its mean over the
    true classes.
    """

    def __init__(self, classes):
        self.matrix = np.zeros((classes, classes), "int64")
        self.images = 0

    def update(self, answers, examples):
        """Adds photos on canvases, where `fit_into` places them, at the photos' own sizes.

        Args:
            answers: Logits (images, height, width, classes), or class maps, ints (images, height,
                width).
            examples: Dict with `"map"`, the photos' class maps as PNG files (bytes); and
                `"image"`, the canvases, uint8 (images, height, width, 3), and their `"name"`.

        Raises:
            ValueError: for logits of another number of classes, and as `add`.
        """
        rows = zip(answers, *(examples[key] for key in ("map", "image", "name")), strict=True)
        for answer, encoded, image, name in rows:
            if answer.ndim == 3 and answer.shape[-1] != len(self.matrix):
                raise ValueError(
                    f"The model gives logits of {answer.shape[-1]} classes, and the data have "
                    f"{len(self.matrix)}."
                )
            truth = np.asarray(Image.open(io.BytesIO(encoded)))
            placement = fit_into(truth.shape, image.shape[:2])
            height, width = placement.size
            photo, name = image[:height, :width], name.decode(errors="replace")
            self.add(truth, placement.class_map(answer), photo, name)

    def add(self, truth, prediction, image=None, name=""):
        """Adds a photo.

        Args:
            truth: Its class map, uint8 (height, width): 255 where there is no class.
            prediction: The one that was found, ints alike.
            image: The photo, uint8 (height, width, 3) of any size, for a report.
            name: What tells it, there.

        Returns:
            int64 (classes, classes): its own matrix.

        Raises:
            ValueError: if the sizes differ, or there are other classes.
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.shape != prediction.shape:
            raise ValueError(
                "`truth` and `prediction` must be class maps of one size. "
                f"Received: {truth.shape} and {prediction.shape}."
            )
        counted = truth != _IGNORED
        truth, prediction = truth[counted], prediction[counted]
        classes = len(self.matrix)
        for what, values in (("truth", truth), ("prediction", prediction)):
            if values.max(initial=0) >= classes:
                raise ValueError(
                    f"`{what}` has the class {values.max()}, but there are {classes}, from 0 on. "
                    f"Pixels without a class are {_IGNORED} in the truth."
                )
        pairs = truth.astype("int64") * classes + prediction
        matrix = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self.matrix += matrix
        self.images += 1
        return matrix

    def state(self):
        return self.matrix, self.images

    def merge(self, states):
        matrices, images = zip(*states, strict=True)
        self.matrix, self.images = np.sum(matrices, axis=0), sum(images)

    def result(self):
        if not self.matrix.any():
            raise ValueError(
                f"There is nothing to measure: no pixel of the {self.images:,} images has a class."
            )
        ious, accuracies = by_class(self.matrix)
        return {
            "miou": 100 * float(np.nanmean(ious)),
            "aacc": 100 * float(np.trace(self.matrix) / self.matrix.sum()),
            "macc": 100 * float(np.nanmean(accuracies)),
        }

    def counts(self):
        return {"images": self.images}


def by_class(matrix):
    """Intersection over union and accuracy of each class, 0..1; NaN where there is none.

    Args:
        matrix: As `SegmentationScores` has it.

    Returns:
        Two float64 arrays (classes,).
    """
    right, true, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return right / (true + found - right), right / true
