"""Average precision in the logs of a plain `fit`."""

import math

import keras
import numpy as np

from keras_sepvit.detection.detector import convert_boxes
from keras_sepvit.detection.scores import DetectionScores
from keras_sepvit.training.held_out import HeldOut


class AveragePrecision(keras.callbacks.Callback):
    """Adds COCO's `val_AP` and `val_AP50`, in percent, to the logs of each epoch.

    The other ten numbers are those of `keras_sepvit.detection.evaluate`; masks are measured by
    `keras_sepvit.instances.MaskAveragePrecision`. NaN where the data have no object. Other
    callbacks that watch these, such as
    `keras.callbacks.ModelCheckpoint(path, monitor="val_AP", mode="max")`, stand behind it.

    Args:
        data: Images and targets as the model's `fit` takes them: an array (images, height, width,
            3), and a dict of `"boxes"` (images, boxes, 4) and `"labels"` (images, boxes), padded
            with -1; or batches of such pairs that can be gone through again and again, such as a
            `tf.data.Dataset`. Boxes are in the model's `bounding_box_format`.
        batch_size: Images predicted at a time, of arrays.

    Raises:
        ImportError: without faster-coco-eval.
        ValueError: for other data, and for an iterator, which ends with the first epoch.

    Example:

    ```python
    model.compile("adamw")
    validation = held_out_images, {"boxes": held_out_boxes, "labels": held_out_labels}
    model.fit(images, targets, epochs=20, callbacks=[AveragePrecision(validation)])
    ```
    """

    _logged = {"val_AP": "ap", "val_AP50": "ap50"}
    _new_scores = DetectionScores

    def __init__(self, data, batch_size=16):
        super().__init__()
        self._new_scores(1)  # refuses before the first epoch
        self._batches = HeldOut(data, batch_size)

    def on_epoch_end(self, epoch, logs=None):
        scores = self._new_scores(self.model.num_classes)
        for images, targets in self._batches:
            found = self.model.predict_on_batch(images)
            parts = [
                {**part, "boxes": self._in_pixels(part["boxes"], images)}
                for part in (targets, found)
            ]
            for number in range(len(images)):
                truth, answer = (
                    {key: np.asarray(values[number]) for key, values in part.items()}
                    for part in parts
                )
                self._add(scores, truth, answer, images.shape[1:3])
        result = scores.result()
        for name, key in self._logged.items():
            logs[name] = math.nan if result[key] is None else result[key]

    def _add(self, scores, truth, found, image_size):
        scores.add({key: truth[key] for key in ("boxes", "labels")}, found)

    def _in_pixels(self, boxes, images):
        height, width = images.shape[1:3]
        source = self.model.bounding_box_format
        boxes = convert_boxes(boxes, source, "xyxy", height, width)
        return keras.ops.convert_to_numpy(boxes)
