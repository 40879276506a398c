"""Accuracy of a classifier on a set of labelled images."""

import dataclasses

import keras
import numpy as np

from keras_sepvit.scores import preprocess, probabilities
from keras_sepvit.training.images import EvalTransform
from keras_sepvit.training.pipeline import DataReport, evaluation_batches, evaluation_steps

_TOP = 5


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` measured.

    Where images have sets of labels (ReaL), a prediction is right if it is in the set.

    Attributes:
        top1: Images whose most probable class is right, in percent.
        top5: Images of whose five most probable classes one is right, in percent.
        loss: Mean cross-entropy in nats; None where images have sets of labels.
        images: Number of images that these are of.
        unreadable: Number of images left out because they could not be read.
        unlabelled: Number of images left out because their set of labels is empty.
    """

    top1: float
    top5: float
    loss: float | None
    images: int
    unreadable: int
    unlabelled: int


def evaluate(
    model,
    source,
    *,
    image_size,
    batch_size=64,
    crop=None,
    interpolation="bicubic",
    report=None,
    verbose=0,
):
    """Measures a classifier's accuracy.

    Images are resized, keeping the ratio of their sides, so that a centre crop of
    `image_size` keeps the share `crop` of the shorter side.

    Args:
        model: Keras classifier of RGB images, to probabilities or logits. Images of
            0..255 are normalised with ImageNet's mean and standard deviation if the
            model has no Normalization or Rescaling layer.
        source: A `Source`, as `open_source` gives.
        image_size: (height, width) of the model's input in pixels, or one number for
            both.
        batch_size: Images predicted at a time.
        crop: Share of the shorter side, above 0 and at most 1; by default that of the
            source: 0.875, and 1 for the digits.
        interpolation: `"bicubic"` or `"bilinear"`.
        report: A `DataReport` that unreadable images are added to.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        An `EvaluationResult`.

    Raises:
        ValueError: if the model has another number of classes than the source, an
            argument is out of its range, or no image can be read.
    """
    classes = model.output_shape[-1]
    if classes != source.classes:
        raise ValueError(
            f"The model has {classes:,} classes, and {source} has another number. Evaluate it "
            "on data with the classes that it was trained on."
        )
    report = DataReport() if report is None else report
    transform = EvalTransform(
        image_size=image_size,
        crop=source.crop if crop is None else crop,
        interpolation=interpolation,
    )
    batches = evaluation_batches(source, transform, batch_size=batch_size, report=report)
    progress = keras.utils.Progbar(evaluation_steps(source, batch_size), verbose=verbose)
    known = report.unreadable
    sums = np.zeros(3)  # right, right in five, loss
    images = unlabelled = 0
    with report.raising():
        for batch, labels, weights in batches.as_numpy_iterator():
            outputs = model.predict_on_batch(preprocess(model, batch))
            readable = weights > 0
            scores, labels = probabilities(model, outputs)[readable], labels[readable]
            if source.multi_label:
                labelled = labels.any(axis=-1)
                unlabelled += np.sum(~labelled)
                scores, labels = scores[labelled], labels[labelled]
            sums += _sums(scores, labels)
            images += len(labels)
            progress.add(1)
    if not images:
        raise ValueError(f"There is nothing to evaluate in {source}: {report}.")
    top1, top5, loss = (float(value) for value in sums / images)
    return EvaluationResult(
        top1=100 * top1,
        top5=100 * top5,
        loss=None if source.multi_label else loss,
        images=images,
        unreadable=report.unreadable - known,
        unlabelled=int(unlabelled),
    )


def _sums(scores, labels):
    """Over images: how often the best class is right, or one of the best five; cross-entropy.

    Labels are numbers (images,), or (images, classes) with 1 for each label of an image.
    """
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :_TOP]
    if labels.ndim == 2:
        right = np.take_along_axis(labels, best, axis=-1) > 0
        loss = 0.0
    else:
        right = best == labels[:, None]
        likelihoods = np.take_along_axis(scores, labels[:, None], axis=-1)
        # Where float32 rounds a probability to 0, its logarithm stays finite.
        loss = -np.log(np.maximum(likelihoods, np.finfo("float32").tiny), dtype="float64").sum()
    return np.array([right[:, 0].sum(), right.any(axis=-1).sum(), loss])
