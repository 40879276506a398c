"""COCO's numbers of a detector of any kind on photos with boxes, at their own sizes."""

import keras
import numpy as np

from keras_sepvit.detection.detector import is_detector
from keras_sepvit.detection.prediction import PhotoDetector
from keras_sepvit.detection.scores import DetectionScores
from keras_sepvit.training.evaluation import answers_of_photos, check_classes, class_order
from keras_sepvit.training.report import DataReport
from keras_sepvit.validation import refuse_path


def evaluate(
    model,
    source,
    *,
    batch_size=1,
    sides=None,
    class_names=None,
    details=None,
    report=None,
    verbose=0,
):
    """Measures a detector in the photos' own pixels, as `detect` predicts them.

    Args:
        model: Keras detector, as `detect` takes it; or what has a `detect` of its own, such as a
            `keras_sepvit.runtime.Predictor` of an exported detector. All that it finds counts, from
            the threshold on that it was made with, 0.05 by default.
        source: Photos with boxes, as `keras_sepvit.detection.sources.open_source` gives.
        batch_size: Images predicted at a time; of one shape, for a model of any size.
        sides: As for `detect`.
        class_names: Names of the model's classes in order; by default its record's. Where the
            source has names too, classes are matched by them, not by their numbers.
        details: A `DetectionReport` of the source's classes that photos are added to.
        report: A `DataReport` that unreadable photos are added to.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        Dict of the results of `DetectionScores` in percent, None where there is nothing to find;
        the numbers of `images` and `objects` that these are of, of images left out because they
        are `unreadable`, and of `shapes` of images that the model had.

    Raises:
        ValueError: for another model or source, if they have different classes, for a photo of
            another size than its file of boxes says, for an argument out of its range, and if no
            image can be read.
        ImportError: without faster-coco-eval.
    """
    if not hasattr(source, "image_id"):
        raise ValueError(
            "`source` must be photos with boxes, as `open_source` of "
            f"`keras_sepvit.detection.sources` gives. Received: {source}."
        )
    scores = DetectionScores(source.classes) if details is None else details
    return measure(model, source, scores, batch_size, sides, class_names, report, verbose)


def measure(model, source, scores, batch_size, sides, class_names, report, verbose):
    """As `evaluate`, by new `DetectionScores` of the source's classes, or others of their form."""
    refuse_path("model", model)
    record = getattr(model, "record", None)
    names = class_names or (record and record.class_names)
    order = class_order(names, source)
    detections, classes, shapes = _predictor(model, sides, batch_size, names)
    check_classes(classes, source)
    numbers = np.arange(source.classes) if order is None else np.argsort(order)
    report = DataReport() if report is None else report
    known = report.unreadable
    photos = answers_of_photos(detections, source, report, verbose)
    for number, name, image, truth, found in photos:
        if found["labels"].max(initial=0) >= source.classes:
            raise ValueError(
                f"The model has found the class {found['labels'].max()}, and {source} has other "
                "classes. Evaluate it on data with the classes that it was trained on."
            )
        found = {**found, "labels": numbers[found["labels"]]}
        scores.add(truth, found, image, name, source.image_id(number))
    counts = scores.counts()
    if not counts["images"]:
        raise ValueError(f"There is nothing to evaluate: {report}.")
    return {
        **scores.result(),
        **counts,
        "unreadable": report.unreadable - known,
        "shapes": len(shapes),
    }


def _predictor(model, sides, batch_size, names):
    """A function of pairs of a key and a photo to pairs of it and the photo's detections.

    Returns:
        The function; the number of classes, None where it is not known; the set of the shapes of
        images, which grows.
    """
    if isinstance(model, keras.Model) and is_detector(model):
        detector = PhotoDetector(model, batch_size, sides)
        return detector.detections, detector.classes, detector.shapes
    if not hasattr(model, "detect"):
        name = getattr(model, "name", type(model).__name__)
        raise ValueError(
            "`model` must be a detector: a Keras model such as `RetinaNet`, or a "
            f"`keras_sepvit.runtime.Predictor` of one. Received: `{name}`. "
            "`keras_sepvit.classification.evaluate` measures classifiers."
        )
    if sides is not None:
        raise ValueError(
            "`sides` is for models of Keras: an exported detector takes photos in one way. "
            f"Received: sides={sides}."
        )
    return (
        lambda photos: ((key, model.detect(photo, threshold=0.0)) for key, photo in photos),
        None if names is None else len(names),
        {model.image_shape[:2]},
    )
