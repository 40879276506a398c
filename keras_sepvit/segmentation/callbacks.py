"""Mean IoU in the logs of a plain `fit`."""

import keras
import numpy as np

from keras_sepvit.segmentation.scores import SegmentationScores
from keras_sepvit.training.held_out import HeldOut


class MeanIoU(keras.callbacks.Callback):
    """Adds `val_miou`, `val_aacc` and `val_macc`, in percent, to the logs of each epoch.

    Unlike `keras.metrics.MeanIoU`, which counts in float32, exact for any number of pixels; and
    classes that are nowhere are left out of the means. Other callbacks that watch these, such as
    `keras.callbacks.EarlyStopping(monitor="val_miou", mode="max")`, stand behind it.

    Args:
        data: Photos on canvases and class maps of their size, as the model's `fit` takes them: two
            arrays, (images, height, width, 3) and ints (images, height, width); or batches of
            such pairs that can be gone through again and again, such as a `tf.data.Dataset`.
            Pixels of 255 do not count.
        batch_size: Images predicted at a time, of arrays.

    Raises:
        ValueError: for other data, and for an iterator, which ends with the first epoch.

    Example:

    ```python
    model.compile("adamw")
    model.fit(images, maps, epochs=20, callbacks=[MeanIoU((held_out_images, held_out_maps))])
    ```
    """

    def __init__(self, data, batch_size=16):
        super().__init__()
        self._batches = HeldOut(data, batch_size)

    def on_epoch_end(self, epoch, logs=None):
        scores = SegmentationScores(self.model.output_shape[-1])
        for images, class_maps in self._batches:
            logits = np.asarray(self.model.predict_on_batch(images))
            for truth, found in zip(class_maps, logits.argmax(axis=-1), strict=True):
                scores.add(truth, found)
        logs.update({f"val_{name}": value for name, value in scores.result().items()})
