"""Mean IoU of a segmenter of any kind on photos with class maps, at their own sizes."""

import keras
import numpy as np

from keras_sepvit.segmentation.prediction import PhotoSegmenter
from keras_sepvit.segmentation.scores import SegmentationScores
from keras_sepvit.training.evaluation import answers_of_photos, check_classes, class_order
from keras_sepvit.training.report import DataReport
from keras_sepvit.validation import refuse_path


def evaluate(
    model,
    source,
    *,
    batch_size=1,
    sides=None,
    scales=(1.0,),
    flip=False,
    window=None,
    stride=None,
    class_names=None,
    details=None,
    report=None,
    verbose=0,
):
    """Measures a segmenter at the photos' own sizes, as `segment` predicts them.

    Args:
        model: Keras segmenter of logits, as `segment` takes it; or what has a `segment` of its
            own, such as a `keras_sepvit.runtime.Predictor` of an exported segmenter, which takes
            photos in one way alone.
        source: Photos with class maps, as `keras_sepvit.segmentation.open_source` gives.
        batch_size: Images predicted at a time; of one shape, for a model of any size.
        sides, scales, flip, window, stride: As for `segment`.
        class_names: Names of the model's classes in order; by default its record's. Where the
            source has names too, classes are matched by them, not by their numbers.
        details: A `SegmentationReport` of the source's classes that photos are added to.
        report: A `DataReport` that unreadable photos are added to.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        Dict of `miou`, `aacc` and `macc` in percent (see `SegmentationScores`); the numbers of
        `images` that these are of, of those left out because they are `unreadable`, and of
        `shapes` of images that the model had.

    Raises:
        ValueError: for another model or source, if they have different classes, for a mask that
            is refused, for an argument out of its range, and if no image can be read.
    """
    if not hasattr(source, "read"):
        raise ValueError(
            "`source` must be photos with class maps, as `keras_sepvit.segmentation.open_source` "
            f"gives. Received: {source}."
        )
    record = getattr(model, "record", None)
    order = class_order(class_names or (record and record.class_names), source)
    how = {"sides": sides, "scales": scales, "flip": flip, "window": window, "stride": stride}
    class_maps, classes, shapes = _predictor(model, how, batch_size)
    check_classes(classes, source)
    if order is not None:
        numbers = np.full(256, 255, "uint8")
        numbers[order] = np.arange(len(order))
    scores = SegmentationScores(source.classes) if details is None else details
    report = DataReport() if report is None else report
    known = report.unreadable
    photos = answers_of_photos(class_maps, source, report, verbose)
    for _, name, image, truth, found in photos:
        scores.add(truth, found if order is None else numbers[found], image, name)
    if not scores.images:
        raise ValueError(f"There is nothing to evaluate: {report}.")
    return {
        **scores.result(),
        **scores.counts(),
        "unreadable": report.unreadable - known,
        "shapes": len(shapes),
    }


def _predictor(model, how, batch_size):
    """A function of pairs of a key and a photo to pairs of it and a class map.

    Returns:
        The function; the number of classes, None where it is not known; the set of the shapes of
        images, which grows.
    """
    refuse_path("model", model)
    if isinstance(model, keras.Model) and len(model.output_shape) == 4:
        segmenter = PhotoSegmenter(model, **how, batch_size=batch_size)
        return segmenter.class_maps, segmenter.classes, segmenter.shapes
    if not hasattr(model, "segment"):
        name = getattr(model, "name", type(model).__name__)
        raise ValueError(
            "`model` must be a segmenter: a Keras model of logits (batch, height, width, classes), "
            f"or a `keras_sepvit.runtime.Predictor` of one. Received: `{name}`. "
            "`keras_sepvit.classification.evaluate` measures classifiers."
        )
    given = [name for name, value in how.items() if value not in (None, False, (1.0,), [1.0])]
    if given:
        raise ValueError(
            f"`{given[0]}` is for models of Keras: an exported segmenter takes photos in one way. "
            f"Received: {given[0]}={how[given[0]]}."
        )
    names = model.class_names
    return (
        lambda photos: ((key, model.segment(photo)) for key, photo in photos),
        None if names is None else len(names),
        {model.image_shape[:2]},
    )
