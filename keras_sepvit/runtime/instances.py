"""Objects with their masks in photos, from an exported instance segmenter."""

from keras_sepvit.runtime.detector import ANSWERS, FileDetector, ImageDetector

# What instance segmenters give, and its types.
INSTANCE_ANSWERS = {**ANSWERS, "masks": "float32"}


class ImageInstanceSegmenter(ImageDetector):
    """What all instance segmenters in images share, whatever runs them.

    They are detectors whose `detect(photo)` also gives `"masks"`, bool (n, height, width): the
    objects' pixels in the upright photo; and whose `predict(images)` gives `"masks"` (count, most,
    28, 28), float32 of 0..1, each over its own box, 0 behind the last.
    """

    hint = "It is an instance segmenter: `detect(photo)` gives the objects in a photo, with masks."


class FileInstanceSegmenter(ImageInstanceSegmenter, FileDetector):
    """An instance segmenter from a .tflite or .onnx file: what `Predictor` makes of one.

    One thread at a time may use it.

    Args:
        path: The file.
        model: What `open_model` gives for it.
        labels, pixels: As for `Predictor`.

    Raises:
        ValueError: as `Predictor`.
    """

    _kind, _types = "instance segmenter", INSTANCE_ANSWERS
