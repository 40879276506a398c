"""What the detectors share: the model around backbone and heads, its targets and its answers."""

import keras
import numpy as np
from keras import ops

from keras_sepvit import task_model
from keras_sepvit.detection.layers import suppression_settings
from keras_sepvit.names import ANCHOR_SCALE
from keras_sepvit.stages import argument
from keras_sepvit.task_model import TaskModel
from keras_sepvit.validation import check_choice, positive_int
from keras_sepvit.warn import warn

BOX_FORMATS = (
    *("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw"),
    *("rel_xyxy", "rel_yxyx", "rel_xywh", "rel_center_xywh"),
)


# Boxes of shares may reach out of their image, but not that far.
_FARTHEST = 5
# Boxes reach far out of their image by more than this share of its side. If more than so many of
# them do, they are of another format.
_BEYOND, _MOST_BEYOND = 0.1, 0.5


class Detector(TaskModel):
    """A functional model from images to raw outputs, with its losses and its decoding.

    A subclass has `losses_of(targets, outputs)` and, where outputs are raw, `detections(outputs,
    image_size, sizes)`, in pixels and corners.

    Args:
        backbone: A model with `pyramid_outputs`.
        outputs: Keras tensors on it.
        anchors: The `Anchors` that they are of.
        weights: As for `load_pretrained`, or None.
        policy: Dtype policy of the heads.
        config: The arguments of the subclass beside the backbone, by name; of decoding
            `score_threshold`, `iou_threshold` and `max_detections`.
        **kwargs: `name` and `trainable` of `keras.Model`.
    """

    _loss_in_words = (
        "of classes and boxes. Leave out {what}; pictures without objects have rows of padding "
        "alone, of label -1, and `keras_sepvit.detection.AveragePrecision` measures."
    )

    # The shapes of targets; words are sides that they share.
    _target_shapes: dict[str, tuple[int | str, ...]] = {
        "boxes": ("images", "boxes", 4),
        "labels": ("images", "boxes"),
        "sizes": ("images", 2),
    }
    _targets_in_words = "'boxes' (images, boxes, 4) and 'labels' (images, boxes), padded with -1"

    num_classes = argument("num_classes")
    bounding_box_format = argument("bounding_box_format")
    anchor_scale = argument("anchor_scale")
    channels = argument("channels")
    num_convs = argument("num_convs")
    score_threshold = argument("score_threshold")
    iou_threshold = argument("iou_threshold")
    max_detections = argument("max_detections")

    def __init__(self, backbone, outputs, anchors, weights, policy, config, **kwargs):
        super().__init__(backbone, outputs, policy, config, **kwargs)
        self.anchors = anchors
        self._begin(weights)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[ANCHOR_SCALE] = np.array(self.anchor_scale)

    def load_own_variables(self, store):
        variables = dict(store)
        stored = variables.pop(ANCHOR_SCALE, self.anchor_scale)  # old files have none
        scale = float(np.asarray(stored))
        if scale != self.anchor_scale:
            raise ValueError(
                f"`{self.name}` has anchor_scale={self.anchor_scale:g}, and the file is of a model "
                f"with anchor_scale={scale:g}: boxes would be of wrong sizes. Build the model with "
                "that, or load what fits, to train it anew, by "
                "`keras_sepvit.load_weights(..., skip_head_mismatch=True)`."
            )
        super().load_own_variables(variables)

    @property
    def decoding(self) -> dict:
        """How raw outputs become detections: thresholds, and how many there are at most."""
        names = ("score_threshold", "iou_threshold", "max_detections")
        return {name: self._config[name] for name in names}

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """As Keras's, without `loss` and `metrics`: the model has its own."""
        for name in ("metrics", "weighted_metrics", "loss_weights"):
            if kwargs.pop(name, None):
                self._refuse(f"`{name}`")
        super().compile(optimizer, loss, **kwargs)

    def _check_targets(self, targets):
        """Refuses arrays that are no boxes with labels of the model's classes."""
        if not isinstance(targets, (dict, np.ndarray, list, tuple)):
            return  # with the images, in a data set
        self._check_shapes(targets)
        for name, value in targets.items():
            if isinstance(value, (list, tuple)):
                raise ValueError(
                    f"Targets for `{self.name}` must be arrays. Received a {type(value).__name__} "
                    f"as {name!r}. Pad the rows of each image with -1 to the same number, and "
                    "make one array of all."
                )
        boxes, labels = targets["boxes"], targets["labels"]
        if not (isinstance(boxes, np.ndarray) and isinstance(labels, np.ndarray)):
            return
        if labels.dtype.kind not in "iu":
            raise ValueError(
                f"Labels for `{self.name}` must be ints, -1 in rows of padding. Received: "
                f"{labels.dtype}."
            )
        wrong = (labels < -1) | (labels >= self.num_classes)
        if wrong.any():
            raise ValueError(
                f"Labels for `{self.name}` must be 0 to {self.num_classes - 1}, and -1 in rows of "
                f"padding. Received: {', '.join(map(str, np.unique(labels[wrong])[:5]))}. Renumber "
                "them, or build the model with another `num_classes`."
            )
        rows = boxes[labels >= 0]
        if not np.isfinite(rows).all():
            raise ValueError(f"Boxes for `{self.name}` must be finite. Received NaN or infinity.")
        self._check_boxes(rows)

    def _check_shapes(self, targets):
        """Refuses targets, whose shapes may be unknown in part, of other names or shapes."""
        shapes, expected = None, self._target_shapes
        if isinstance(targets, dict):
            shapes = {name: _known_shape(value) for name, value in targets.items()}
            needed = {*expected} - {"sizes"}
            if needed <= {*shapes} <= {*expected} and _fit(shapes, expected):
                return
        raise ValueError(
            f"Targets for `{self.name}` must be a dict of {self._targets_in_words}, and maybe "
            "'sizes' (images, 2), (height, width) of each picture. "
            f"Received: {shapes}."
        )

    def _check_boxes(self, rows):
        """Refuses boxes (n, 4) of another format than the model's, as far as they tell."""
        boxes = f"Boxes for `{self.name}` are {self.bounding_box_format!r}"
        advice = "Build the model with another `bounding_box_format`, or convert them."
        if self.bounding_box_format.endswith(("xyxy", "yxyx")):
            wrong = (rows[:, 2:] < rows[:, :2]).any(axis=1)
            rule = "the second corner must not lie before the first"
            advice = (
                "If they have widths and heights, build the model with bounding_box_format='xywh'."
            )
        else:
            wrong, rule = (rows[:, 2:] < 0).any(axis=1), "sides must not be negative"
        if wrong.any():
            raise ValueError(f"{boxes}: {rule}. Received: {rows[wrong][0].tolist()}. {advice}")
        if not len(rows):
            return
        largest, relative = np.abs(rows).max(), self.bounding_box_format.startswith("rel_")
        if relative and largest > _FARTHEST:
            raise ValueError(
                f"{boxes}, shares of an image's sides. Received values of up to {largest:g}, which "
                f"look like pixels. {advice}"
            )
        if not relative and largest <= 1:
            raise ValueError(
                f"{boxes}, in pixels. Received values of at most {largest:g}, which look like "
                f"shares of an image's sides. {advice}"
            )

    def _check_first(self, images, targets):
        super()._check_first(images, targets)
        if not isinstance(targets, dict) or not {"boxes", "labels"} <= {*targets}:
            return  # the step tells
        boxes, labels = (
            ops.convert_to_numpy(targets[name][: len(images)]) for name in ("boxes", "labels")
        )
        if boxes.shape != (*labels.shape, 4):
            return
        rows = boxes[labels >= 0]
        self._check_boxes(rows)
        height, width = images.shape[1:3]
        wrong = _beyond(rows, self.bounding_box_format, height, width)
        if wrong.sum() > _MOST_BEYOND * len(rows):
            warn(
                f"Boxes for `{self.name}` are {self.bounding_box_format!r}, and as such "
                f"{wrong.sum()} of the first {len(rows)} reach far out of their images of "
                f"{height} x {width}, such as {rows[wrong][0].tolist()}. Build the model with the "
                "`bounding_box_format` that they have, or convert them."
            )

    def _loss_pairs(self, x, y, y_pred):
        return self.losses_of(self._in_pixels(y, x), y_pred)

    def _in_pixels(self, targets, images):
        """Targets with boxes in pixels and corners."""
        self._check_shapes(targets)
        height, width = ops.shape(images)[1:3]
        boxes = targets["boxes"]
        boxes = convert_boxes(boxes, self.bounding_box_format, "xyxy", height, width)
        return {**targets, "boxes": boxes}

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return self.get_metrics_result()

    def predict_step(self, *args):
        """As Keras's; detections in the place of raw outputs."""
        images, _, _ = keras.utils.unpack_x_y_sample_weight(args[-1])
        outputs = super().predict_step(*args)
        if len(args) == 1:
            return self._answers(outputs, images)
        outputs, state = outputs  # of JAX, whose steps are given the state and return it
        return self._answers(outputs, images), state

    def _answers(self, outputs, images):
        height, width = ops.shape(images)[1:3]
        return self._in_own_format(self.detections(outputs, (height, width)), height, width)

    def _in_own_format(self, found, height, width):
        """Detections with boxes of the model's format, -1 past the last."""
        boxes = convert_boxes(found["boxes"], "xyxy", self.bounding_box_format, height, width)
        is_detection = (found["labels"] >= 0)[..., None]
        return {**found, "boxes": ops.where(is_detection, boxes, -1.0)}


def is_detector(model):
    """Whether a Keras model gives what boxes are made of: one of here, or as its record says."""
    record = getattr(model, "record", None)
    return isinstance(model, Detector) or (record is not None and record.task == "detection")


def convert_boxes(boxes, source, target, height, width):
    """Boxes of one of Keras's formats in another, float32; for images of height x width."""
    # A dict would be changed in place.
    return keras.utils.bounding_boxes.convert_format(
        ops.cast(boxes, "float32"), source, target, height, width
    )


def _beyond(boxes, box_format, height, width):
    """Which boxes (n, 4) of a format reach far out of their images.

    In NumPy: it runs within `tf.data`, where `convert_boxes` gives tensors of TensorFlow.
    """
    kind = box_format.removeprefix("rel_")
    first, second = np.split(boxes.astype("float32"), 2, axis=1)
    if kind.startswith("center"):
        first, second = first - second / 2, first + second / 2
    elif kind == "xywh":
        second = first + second
    if kind == box_format:
        sides = (height, width) if kind in ("yxyx", "center_yxhw") else (width, height)
        first, second = first / sides, second / sides
    return ((first < -_BEYOND) | (second > 1 + _BEYOND)).any(axis=1)


def check_arguments(detector, weights, others, config, most):
    """Refuses what can be told before a detector is built.

    Args:
        detector: Its class.
        weights: As for `load_pretrained`, or None.
        others: Its `**kwargs`.
        config: As for `Detector`.
        most: The boxes of an image that detections are chosen from.
    """
    task_model.check_arguments(detector, weights, others)
    positive_int("num_classes", config["num_classes"])
    check_choice("bounding_box_format", config["bounding_box_format"], BOX_FORMATS)
    names = ("score_threshold", "iou_threshold", "max_detections")
    suppression_settings(**{name: config[name] for name in names}, most=most)


def _fit(shapes, expected):
    """Whether shapes, None or with None where they are not known, have the sides of others.

    Args:
        shapes: Tuples of ints by name.
        expected: The same; strings stand for sides that are everywhere equal.
    """
    shared = {}
    for name, shape in shapes.items():
        if shape is not None and len(shape) != len(expected[name]):
            return False
        for side, wanted in zip(shape or (), expected[name], strict=False):
            wanted = shared.setdefault(wanted, side) if isinstance(wanted, str) else wanted
            if None not in (side, wanted) and side != wanted:
                return False
    return True


def _known_shape(value):
    """The shape of an array or tensor as a tuple, with None for sides that are not known."""
    shape = getattr(value, "shape", None)
    return None if shape is None or getattr(shape, "rank", 0) is None else tuple(shape)
