"""A model in the form in which it is deployed: what it gives, and how files' outputs compare."""

import dataclasses

import keras
import numpy as np

from keras_sepvit.detection.detector import Detector
from keras_sepvit.detection.mask_rcnn import MaskRCNN
from keras_sepvit.export.check import TOLERANCES, measure_agreement, measure_class_maps
from keras_sepvit.export.check_detections import DETECTION_TOLERANCES, measure_detections


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A model in the form in which it is deployed.

    Attributes:
        model: Functional model in float32: takes a batch of images (`image`) and
            returns a dict of outputs by name.
        image_shape: (height, width, channels) of the images.
        takes_pixels: Whether images are of 0..255. If not, they must be
            normalised as the Keras model's are.
        outputs: Shape of each output by name, without the batch.
        activation: `"softmax"`, `"sigmoid"` or `"linear"` (logits) where the one output
            scores classes, else None.
        class_names: Names of the classes, or None.
        task: `"classification"`, `"segmentation"`, `"detection"`, `"instances"` or `"features"`.
        category_ids: Of a detector, those of its record, or None.
    """

    model: keras.Model
    image_shape: tuple
    takes_pixels: bool
    outputs: dict
    activation: str | None
    class_names: tuple | None
    task: str
    category_ids: tuple | None = None

    tolerances = TOLERANCES  # how far a file's outputs may be from these, by precision

    @property
    def is_softmax(self):
        """Whether these scores are the probabilities of a softmax."""
        return self.activation == "softmax"

    def predict(self, images, batch_size=8):
        """The Keras model's outputs for images, as float32 arrays by name.

        Args:
            images: Array of shape (count, height, width, channels).
            batch_size: Images to compute at once.
        """
        batch_size = min(batch_size, len(images))
        outputs = self.model.predict(images, batch_size=batch_size, verbose=0)
        return {name: np.asarray(output, "float32") for name, output in outputs.items()}

    def measure(self, expected, found, precision):
        """The `Agreement` of what `predict` gives with a file's outputs."""
        return measure_agreement(expected, found, self, precision)


@dataclasses.dataclass(frozen=True)
class ClassMapDeployment(Deployment):
    """A segmenter that gives class maps.

    Attributes:
        pixel_logits: Model of the same weights from images to the logits of their pixels.
    """

    pixel_logits: keras.Model = None

    def predict(self, images):
        """The Keras model's class maps for images, and their leads: see `measure_class_maps`.

        Args:
            images: Array of shape (count, height, width, channels).
        """
        class_maps, leads = [], []
        for image in images:  # one at a time: of many classes, logits fill the memory
            (logits,) = self.pixel_logits.predict(image[np.newaxis], verbose=0)
            class_maps.append(logits.argmax(axis=-1))
            *_, second, first = np.moveaxis(np.partition(logits, (-2, -1), axis=-1), -1, 0)
            leads.append(first - second)
        return {"class_map": np.stack(class_maps), "lead": np.stack(leads)}

    def measure(self, expected, found, precision):
        return measure_class_maps(expected["class_map"], expected["lead"], found)


@dataclasses.dataclass(frozen=True)
class DetectionsDeployment(Deployment):
    """A detector that gives boxes, or an instance segmenter, which gives masks, too.

    Attributes:
        traced: Model of the same weights from images to the outputs and, by names of their own,
            to what heads give: what is computed of it is float32 in files of half precision.
    """

    traced: keras.Model = None

    tolerances = DETECTION_TOLERANCES

    def measure(self, expected, found, precision):
        return measure_detections(expected, found, self.image_shape[:2])


def refuse_detections(model, raw, format):
    """Refuses a model that gives boxes, for a format that has no suppression of them.

    Args:
        model: What is exported.
        raw: Whether a detector's maps are.
        format: The format's name.
    """
    has_maps = isinstance(model, Detector) and not isinstance(model, MaskRCNN)
    if isinstance(model, Detector) and not (raw and has_maps):
        advice = "Export the detector's maps with `raw=True` (--raw). " if has_maps else ""
        raise ValueError(
            f"Files of {format} hold no suppression of boxes. {advice}Take LiteRT, ONNX, "
            "SavedModel or StableHLO."
        )
