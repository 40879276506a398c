"""Layers of no weights that give detections, for the graphs of exports and of Mask R-CNN."""

import dataclasses
from typing import Any

import keras
from keras import layers, ops

from keras_sepvit.detection.anchors import Anchors
from keras_sepvit.detection.decoding import retinanet_detections
from keras_sepvit.validation import check_range, positive_int


class WithoutWeights(layers.Layer):
    """What layers of boxes and masks share: no weights, float32, and `settings`, a dict.

    Args:
        **kwargs: `name` and so on of `keras.layers.Layer`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.settings: dict[str, Any] = {}

    def build(self, input_shape):
        pass

    def get_config(self):
        return {**super().get_config(), **self.settings}


def suppression_settings(score_threshold, iou_threshold, max_detections, most):
    """How detections are chosen, checked, as a dict; `max_detections` is at most `most`."""
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        check_range(name, value, 0, 1)
    max_detections = positive_int("max_detections", max_detections)
    check_range("max_detections", max_detections, 1, most)
    return {
        "score_threshold": float(score_threshold),
        "iou_threshold": float(iou_threshold),
        "max_detections": max_detections,
    }


def detections_spec(batch, max_detections):
    """Keras tensors of what `retinanet_detections` gives."""
    shape = batch, max_detections
    return {
        "boxes": keras.KerasTensor((*shape, 4), "float32"),
        "labels": keras.KerasTensor(shape, "int32"),
        "confidence": keras.KerasTensor(shape, "float32"),
        "num_detections": keras.KerasTensor(shape[:1], "int32"),
    }


class OnAnchors(WithoutWeights):
    """What layers share that choose among the boxes of anchors.

    Args:
        anchors: The `Anchors` of the levels, or a dict of their attributes.
        candidates: Boxes of a level that are looked at.
        **kwargs: As for `WithoutWeights`.
    """

    def __init__(self, anchors: Anchors | dict, candidates: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(anchors, dict):  # of a file, whose JSON has no tuples
            values = {n: tuple(v) if isinstance(v, list) else v for n, v in anchors.items()}
            anchors = Anchors(**values)
        self.anchors = anchors
        self.settings["candidates"] = positive_int("candidates", candidates)

    def get_config(self):
        return {**super().get_config(), "anchors": dataclasses.asdict(self.anchors)}


@keras.saving.register_keras_serializable(package="keras_sepvit")
class Detections(OnAnchors):
    """`retinanet_detections` as a layer of no weights: detections from the maps of a RetinaNet.

    Args:
        anchors, candidates, **kwargs: As for `OnAnchors`.
        score_threshold, iou_threshold, max_detections: As there.

    Call arguments:
        outputs, image_size, sizes: As there.
    """

    def __init__(
        self,
        anchors: Anchors | dict,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        candidates: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(anchors, candidates, **kwargs)
        most = self.settings["candidates"] * len(self.anchors.strides)
        self.settings |= suppression_settings(score_threshold, iou_threshold, max_detections, most)

    def call(self, outputs, image_size, sizes=None):
        return retinanet_detections(outputs, self.anchors, image_size, sizes, **self.settings)

    def compute_output_spec(self, outputs, image_size, sizes=None):
        return detections_spec(outputs["classes"][0].shape[0], self.settings["max_detections"])


@keras.saving.register_keras_serializable(package="keras_sepvit")
class MediaPipeLayout(WithoutWeights):
    """Detections as TensorFlow Lite's `TFLite_Detection_PostProcess` gives them, which MediaPipe
    reads.

    Args:
        **kwargs: As for `WithoutWeights`.

    Call arguments:
        answers: Dict of detections: see `retinanet_detections`.
        image_size: (height, width) of the images.

    Output: Dict of float32 tensors `"location"` (batch, n, 4), (top, left, bottom, right) as
        shares of the image's height and width; `"category"` and `"score"` (batch, n);
        `"number_of_detections"` (batch,). Zeros behind the last.
    """

    def call(self, answers, image_size):
        height, width = image_size
        boxes, labels, scores = (answers[name] for name in ("boxes", "labels", "confidence"))
        left, top, right, bottom = ops.split(ops.maximum(boxes, 0.0), 4, axis=-1)
        location = [top / height, left / width, bottom / height, right / width]
        return {
            "location": ops.concatenate(location, axis=-1),
            "category": ops.cast(ops.maximum(labels, 0), "float32"),
            "score": ops.maximum(scores, 0.0),
            "number_of_detections": ops.cast(answers["num_detections"], "float32"),
        }
