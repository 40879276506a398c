"""The loss of a classifier, and its answers. Without TensorFlow, unlike the task."""

from keras import losses, ops


def soft_cross_entropy(targets, outputs):
    """Cross-entropy of soft targets.

    Args:
        targets: (batch, classes), float32, each row of sum 1.
        outputs: Logits (batch, classes) of any float type.

    Returns:
        Dict of `"loss"` to its sum over the images and their number, float32 scalars.
    """
    values = losses.categorical_crossentropy(
        targets, ops.cast(outputs, "float32"), from_logits=True
    )
    return {"loss": (ops.sum(values), ops.cast(ops.shape(values)[0], "float32"))}


def probabilities(outputs):
    """float32 probabilities of logits (batch, classes)."""
    return ops.softmax(ops.cast(outputs, "float32"))
