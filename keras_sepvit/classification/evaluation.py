"""Accuracy of a classifier of any kind on a set of labelled images."""

import keras

from keras_sepvit.classification.images import EvalTransform
from keras_sepvit.classification.scores import ClassificationScores
from keras_sepvit.classification.task import labelled
from keras_sepvit.inference import KerasPredictor
from keras_sepvit.record import INTERPOLATION
from keras_sepvit.runtime import labels as naming
from keras_sepvit.training.evaluation import check_classes, class_order
from keras_sepvit.training.evaluation import evaluate as run
from keras_sepvit.training.pipeline import evaluation_batches
from keras_sepvit.training.report import DataReport
from keras_sepvit.validation import refuse_path, window_pair


def evaluate(
    model,
    source,
    *,
    image_size,
    batch_size=64,
    crop=None,
    interpolation=None,
    activation=None,
    class_names=None,
    details=None,
    report=None,
    verbose=0,
):
    """Measures a classifier's accuracy.

    Images are resized, keeping the ratio of their sides, so that a centre crop of
    `image_size` keeps the share `crop` of the shorter side. What the arguments do not say, the
    model's record does, if it has one.

    Args:
        model: Keras classifier of RGB images, to probabilities or logits, or a
            `keras_sepvit.runtime.Predictor`. Images of 0..255 are normalised with ImageNet's mean
            and standard deviation if a Keras model has no Normalization or Rescaling layer.
        source: A `Source`, as `open_source` gives.
        image_size: (height, width) of the model's input in pixels, or one number for
            both.
        batch_size: Images predicted at a time.
        crop: Share of the shorter side, above 0 and at most 1; by default the record's, else
            that of the source: 0.875, and 1 for the digits.
        interpolation: `"bicubic"` or `"bilinear"`; by default the record's, else `"bicubic"`.
        activation: What makes probabilities of a Keras model's outputs: `"softmax"`, `"sigmoid"`,
            or `"none"` where they are probabilities. By default the record or the model tells.
        class_names: Names of the model's classes in order; by default the record's. Where the
            source has names too, classes are matched by them, not by their numbers.
        details: A `ClassificationReport` of the source's classes that images are added to; of
            images with one label each.
        report: A `DataReport` that unreadable images are added to.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        Dict of `top1` and, of more than five classes, `top5` in percent; `loss`, the mean
        cross-entropy in nats, None where images have sets of labels (ReaL); and the numbers of
        `images` that these are of, of images left out because they are `unreadable`, or
        `unlabelled` (an empty set).

    Raises:
        ValueError: if the model has another number of classes than the source, or other names, an
            argument is out of its range, or no image can be read.
    """
    refuse_path("model", model)
    image_size = window_pair("image_size", image_size)
    record = getattr(model, "record", None)
    if record is not None:
        class_names = class_names or record.class_names
        crop = record.crop if crop is None else crop
        interpolation = interpolation or record.interpolation
    if isinstance(model, keras.Model):
        numbered = naming.numbered(model.output_shape[-1])  # names are matched below
        how = {"image_size": image_size, "activation": activation, "batch_size": batch_size}
        model = KerasPredictor(model, numbered, **how)
    check_classes(len(model.class_names), source)
    order = class_order(class_names, source)

    def predict(images):
        probabilities = model.predict(images)
        return probabilities if order is None else probabilities[:, order]

    report = DataReport() if report is None else report
    known = report.unreadable
    transform = EvalTransform(
        image_size=image_size,
        crop=source.crop if crop is None else crop,
        interpolation=interpolation or INTERPOLATION,
    )
    batches = evaluation_batches(
        source,
        lambda example: labelled(source, example, transform(example["image"])),
        batch_size=batch_size,
        report=report,
    )
    accuracy = ClassificationScores(source.multi_label) if details is None else details
    results = run(predict, batches, accuracy, report=report, verbose=verbose)
    return {**results, **accuracy.counts(), "unreadable": report.unreadable - known}
