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


def distillation_losses(targets, outputs, *, weight, temperature, hard):
    """Cross-entropy of the labels, and how far a student is from its teacher.

    Soft (Hinton et al., arXiv 1503.02531): temperature^2 * KL(teacher || student) of both softmaxes
    at a temperature. Hard (DeiT, arXiv 2012.12877): cross-entropy of the teacher's most likely
    class. By logarithms all through: `keras.losses.kl_divergence` takes probabilities, and gives no
    gradient to those below 1e-7, where a student is most wrong.

    Args:
        targets: Dict of `"labels"` (batch, classes), float32, each row of sum 1, and `"teacher"`,
            the teacher's logits (batch, classes), float32.
        outputs: Logits (batch, classes) of any float type.
        weight: The teacher's share of the loss, from 0 to 1.
        temperature: Of soft distillation, above 0.
        hard: Whether it is hard.

    Returns:
        Dict of `"cross_entropy"`, times `1 - weight`, and `"distillation"`, times `weight`, to the
        sum over the images and their number, float32 scalars. Their means add up to the loss.
    """
    outputs, teacher = ops.cast(outputs, "float32"), targets["teacher"]
    cross_entropy, images = soft_cross_entropy(targets["labels"], outputs)["loss"]
    if hard:
        likeliest = ops.one_hot(ops.argmax(teacher, axis=-1), outputs.shape[-1], dtype="float32")
        distance, _ = soft_cross_entropy(likeliest, outputs)["loss"]
    else:
        expected, found = (ops.log_softmax(logits / temperature) for logits in (teacher, outputs))
        distance = temperature**2 * ops.sum(ops.exp(expected) * (expected - found))
    return {
        "cross_entropy": ((1 - weight) * cross_entropy, images),
        "distillation": (weight * distance, images),
    }


def probabilities(outputs):
    """float32 probabilities of logits (batch, classes)."""
    return ops.softmax(ops.cast(outputs, "float32"))
