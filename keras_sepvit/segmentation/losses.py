"""The losses of a segmenter. Without TensorFlow, unlike the task."""

import keras
from keras import losses, ops

IGNORED = 255  # the class of pixels that have none

# mmsegmentation's weight of the auxiliary head.
_AUXILIARY_WEIGHT = 0.4


def segmentation_losses(class_maps, outputs):
    """Cross-entropy of each head over all pixels.

    Pixels of class 255 add nothing to the total and count in the weight, as in mmsegmentation.

    Args:
        class_maps: Ints (batch, height, width): classes from 0 on, and 255.
        outputs: What a segmenter gives: logits (batch, height, width, classes) of any float
            type, or a dict of `"logits"` and `"auxiliary"`.

    Returns:
        Dict of `"decode_loss"`, and `"auxiliary_loss"` where there are its logits, to the sum
        over the pixels and their number, float32 scalars. The auxiliary head's counts 0.4.
        NaN for classes that the logits have not, if the backend does not refuse them itself.

    Raises:
        ValueError: for maps of another size than the logits, or of floats.
    """
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    pairs = {"decode_loss": _cross_entropy(class_maps, outputs["logits"])}
    if "auxiliary" in outputs:
        total, weight = _cross_entropy(class_maps, outputs["auxiliary"])
        pairs["auxiliary_loss"] = (_AUXILIARY_WEIGHT * total, weight)
    return pairs


def _cross_entropy(class_maps, logits):
    sizes = zip(class_maps.shape, logits.shape[:-1], strict=False)
    if len(class_maps.shape) != 3 or any(None not in pair and len({*pair}) > 1 for pair in sizes):
        raise ValueError(
            "Class maps must be ints of shape (batch, height, width), of the images' size. "
            f"Received: {tuple(class_maps.shape)}, for logits of {tuple(logits.shape)}."
        )
    if keras.backend.is_float_dtype(class_maps.dtype):
        raise ValueError(
            f"Class maps must be ints, classes from 0 on and {IGNORED}. Received floats: "
            f"{class_maps.dtype}. Masks that were read as images may have been divided by 255."
        )
    labels = ops.cast(class_maps, "int32")
    counted = ops.not_equal(labels, IGNORED)
    values = losses.sparse_categorical_crossentropy(
        ops.where(counted, labels, 0), ops.cast(logits, "float32"), from_logits=True
    )
    values = ops.where(counted, values, 0.0)
    # JAX takes them for pixels without a class.
    unknown = counted & ((labels < 0) | (labels >= logits.shape[-1]))
    values = ops.where(unknown, float("nan"), values)
    return ops.sum(values), ops.cast(ops.size(values), "float32")
