"""Class maps of photos, from an exported segmenter."""

import numpy as np

from keras_sepvit.geometry import interpolation
from keras_sepvit.runtime.files import ImageFile, OnCanvas, checked_images

_ANSWERS = {
    (3,): "one output (batch, height, width) of class maps",
    (4,): "(batch, height, width, classes)",
}


class ImageSegmenter(OnCanvas):
    """What all segmenters of images share, whatever runs them.

    Attributes:
        image_shape: (height, width, 3) of the images.
        class_names: The name of each class; None where a file of class maps has none.
        record: The model's `Record`; None if it has none.
    """

    hint = "It is a segmenter: `segment(photo)` gives the classes of a photo's pixels."

    def predict(self, images):
        """The classes of the images' pixels.

        Args:
            images: Array of shape (count, height, width, 3), integers or floats of 0..255;
                `read_image` makes them of photos.

        Returns:
            Class maps, uint8 (count, height, width); or logits, float32 (count, height, width,
            classes), of a model that gives these.

        Raises:
            ValueError: for an array of another shape or type, and values that are not finite. A
                warning tells of images that are not of 0..255.
        """
        return self._answers(checked_images(images, self.image_shape))

    def segment(self, photo):
        """The classes of a photo's pixels.

        Class maps are enlarged to its size by the nearest pixel, logits bilinearly.

        Args:
            photo: An image file, or a uint8 array (height, width, 3); of grey (height, width) or
                (height, width, 1); with transparency, which is dropped, (height, width, 4).

        Returns:
            uint8 (height, width), of the photo's own size, upright.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for what is no photo.
        """
        placement, (answer,) = self._placed(photo)
        return placement.class_map(answer)


class FileSegmenter(ImageSegmenter):
    """A segmenter from a .tflite or .onnx file: what `Predictor` makes of one.

    One thread at a time may use it.

    Args:
        path: The file.
        model: What `open_model` gives for it.
        labels, pixels: As for `Predictor`.

    Raises:
        ValueError: as `Predictor`.
    """

    def __init__(self, path, model, labels=None, pixels=None):
        self._file = file = ImageFile(path, model, pixels, "segmenter", _ANSWERS)
        self.image_shape, self.record = file.image_shape, file.record
        if self.image_shape[-1] != 3:
            raise ValueError(f"{path} takes images of one channel; segmenters' have three.")
        self._gives_logits = len(file.output_shape) == 3
        if not self._gives_logits and file.output_shape != self.image_shape[:2]:
            raise ValueError(
                f"{path} gives class maps of {file.output_shape} for images of "
                f"{self.image_shape[:2]}; expected the same size."
            )
        # Class maps do not tell the number of classes.
        self.class_names = file.class_names(
            labels, file.output_shape[-1] if self._gives_logits else None
        )

    def _answers(self, images):
        answers = self._file(images)
        return _enlarged(answers, images.shape) if self._gives_logits else answers.astype("uint8")


def _enlarged(logits, shape):
    """Logits (count, height, width, classes) at the height and width of `shape`, bilinear."""
    for axis in (1, 2):
        low, high, share = interpolation(logits.shape[axis], shape[axis])
        share = share.reshape([-1 if axis == other else 1 for other in range(4)])
        before, behind = (np.take(logits, places, axis) for places in (low, high))
        logits = before + share * (behind - before)
    return logits
