"""Objects in photos, from an exported detector."""

import numbers

import numpy as np

from keras_sepvit.runtime.files import ImageFile, OnCanvas, checked_images
from keras_sepvit.runtime.object_masks import ObjectMasks

# What detectors give, and its types.
ANSWERS = {
    "boxes": "float32",
    "labels": "int32",
    "confidence": "float32",
    "num_detections": "int32",
}

# The same in MediaPipe's layout, that of `TFLite_Detection_PostProcess`.
MEDIAPIPE = {
    "location": "boxes",
    "category": "labels",
    "score": "confidence",
    "number_of_detections": "num_detections",
}

# Detections with a score above it are shown to people.
THRESHOLD = 0.3


class ImageDetector(OnCanvas):
    """What all detectors in images share, whatever runs them.

    Attributes:
        image_shape: (height, width, 3) of the images.
        class_names: The name of each class; None where a file has none.
        record: The model's `Record`; None if it has none.
    """

    hint = "It is a detector: `detect(photo)` gives the objects in a photo."

    def predict(self, images):
        """The objects in images.

        Args:
            images: Array of shape (count, height, width, 3), integers or floats of 0..255;
                `read_image` makes them of photos.

        Returns:
            Dict of `"boxes"` (count, most, 4), float32 (left, top, right, bottom) in pixels of
            the image, the best first; `"labels"`, int32, and `"confidence"`, float32 of 0..1,
            (count, most); -1 in all behind the last; `"num_detections"`, int32 (count,).

        Raises:
            ValueError: for an array of another shape or type, and values that are not finite. A
                warning tells of images that are not of 0..255.
        """
        return self._answers(checked_images(images, self.image_shape))

    def detect(self, photo, threshold=THRESHOLD):
        """The objects in a photo.

        Args:
            photo: An image file, or a uint8 array (height, width, 3); of grey (height, width) or
                (height, width, 1); with transparency, which is dropped, (height, width, 4).
            threshold: Objects have scores above it, 0..1; the file has a threshold of its own.

        Returns:
            Dict of `"boxes"` (n, 4), float32 (left, top, right, bottom) in pixels of the upright
            photo; `"labels"` (n,), int32; `"confidence"` (n,), float32, descending; `"names"`,
            a list of n strings.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for what is no photo.
        """
        threshold = check_threshold(threshold)
        placement, answers = self._placed(photo)
        (answer,) = each(answers)
        return named(in_photo(answer, placement, threshold), self.class_names)


class FileDetector(ImageDetector):
    """A detector from a .tflite or .onnx file: what `Predictor` makes of one.

    One thread at a time may use it.

    Args:
        path: The file.
        model: What `open_model` gives for it.
        labels, pixels: As for `Predictor`.

    Raises:
        ValueError: as `Predictor`.
    """

    _kind, _types = "detector", ANSWERS

    def __init__(self, path, model, labels=None, pixels=None):
        if model.record.activation is not None:
            raise ValueError(
                f"{path} gives a detector's raw maps, no boxes. Export it without `raw` (--raw)."
            )
        names = {*model.output_names}
        self._is_mediapipe = names == {*MEDIAPIPE}
        if not self._is_mediapipe and names != {*self._types}:
            raise ValueError(
                f"{path} is no {self._kind}: expected the outputs {', '.join(self._types)}. "
                f"Received: {', '.join(model.output_names)}."
            )
        words = "boxes (batch, n, 4), labels and scores (batch, n), their number (batch,)"
        answers = {(1, 2, 2, 3): words, (1, 2, 2, 3, 4): f"{words}, masks (batch, n, side, side)"}
        self._file = file = ImageFile(path, model, pixels, self._kind, answers)
        self.image_shape, self.record = file.image_shape, file.record
        if self.image_shape[-1] != 3:
            raise ValueError(f"{path} takes images of one channel; {self._kind}s' have three.")
        self.class_names = file.class_names(labels, None)

    def _answers(self, images):
        answers = self._file.outputs(images)
        if self._is_mediapipe:
            answers = from_mediapipe(answers, self.image_shape[:2])
        return {name: answers[name].astype(dtype) for name, dtype in self._types.items()}


def from_mediapipe(answers, image_size):
    """Answers of the names of `ANSWERS` from those of `MEDIAPIPE`, arrays for images of a size.

    Boxes are (top, left, bottom, right) of 0..1 there, and nothing is said behind the last.
    """
    answers = {own: answers[name] for name, own in MEDIAPIPE.items()}
    most = answers["labels"].shape[1]
    behind = np.arange(most) >= answers["num_detections"][:, np.newaxis]
    height, width = image_size
    boxes = answers["boxes"][..., [1, 0, 3, 2]] * np.float32([width, height, width, height])
    return {
        "boxes": np.where(behind[..., np.newaxis], -1, boxes),
        "labels": np.where(behind, -1, answers["labels"]),
        "confidence": np.where(behind, -1, answers["confidence"]),
        "num_detections": answers["num_detections"],
    }


def each(answers):
    """The answer for each image of a batch, a dict, from the batch's."""
    return [
        {name: values[number] for name, values in answers.items()}
        for number in range(len(answers["labels"]))
    ]


def in_photo(answer, placement, threshold=0.0):
    """An image's detections in the photo that lies on it.

    Args:
        answer: Dict of `"boxes"` (most, 4), `"labels"` and `"confidence"` (most,), -1 behind
            the last; of instance segmenters `"masks"` (most, side, side) of 0..1 too, each over
            its own box.
        placement: The photo's `Placement` on the image.
        threshold: Detections with a score above it are taken.

    Returns:
        Dict of the same names without rows of -1, nor boxes that lie beside the photo; the masks
        are `ObjectMasks`.
    """
    boxes = placement.to_photo(answer["boxes"])
    taken = (answer["labels"] >= 0) & (answer["confidence"] > threshold)
    taken &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    found = {
        "boxes": boxes[taken],
        "labels": np.asarray(answer["labels"], "int32")[taken],
        "confidence": np.asarray(answer["confidence"], "float32")[taken],
    }
    if "masks" in answer:  # over the whole of boxes that reach into the padding
        whole = placement.to_photo(answer["boxes"][taken], inside=False)
        found["masks"] = ObjectMasks(answer["masks"][taken], whole, placement.photo_size)
    return found


def named(found, class_names=None):
    """What `in_photo` gives, as users get it: with the names of the classes, and masks as arrays.

    Args:
        found: The detections.
        class_names: Names of all classes; without, they are `"class 0"` and so on.
    """
    if "masks" in found:
        found = {**found, "masks": found["masks"].pasted()}
    known = [] if class_names is None else class_names
    names = [
        known[label] if label < len(known) else f"class {label}"
        for label in found["labels"].tolist()
    ]
    return {**found, "names": names}


def check_threshold(threshold):
    """`threshold` of scores as a float of 0..1."""
    if not isinstance(threshold, numbers.Real) or not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must be a number from 0 to 1. Received: {threshold!r}.")
    return float(threshold)
