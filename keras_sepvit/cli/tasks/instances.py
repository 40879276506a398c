"""What the commands do with instance segmenters: as with detectors, and masks."""

from keras_sepvit.cli.common import check_photo_size
from keras_sepvit.cli.tasks.detection import (  # noqa: F401
    AT_A_TIME,
    BATCH_SIZE,
    EVALUATION_OPTIONS,
    OUTPUTS,
    PREDICTION_OPTIONS,
    classes,
    lines,
    note,
    predict,
)

KIND = "instance segmenter"
SCORES = ("ap", "ap50", "mask_ap", "mask_ap50")


def takes(model):
    from keras_sepvit import runtime

    if isinstance(model, runtime.ImageSegmenter | runtime.ImageClassifier | runtime.ImageDetector):
        return isinstance(model, runtime.ImageInstanceSegmenter)
    from keras_sepvit.instances.segmenter import is_instance_segmenter

    return is_instance_segmenter(model)


def open_source(name, split, data_dir=None):
    from keras_sepvit.instances import sources

    return sources.open_source(name, split)


def open_splits(name, train_split, validation_split, data_dir=None):
    from keras_sepvit.instances import sources

    return sources.open_splits(name, train_split, validation_split)


def details(source):
    from keras_sepvit.instances import InstanceReport

    return InstanceReport(source.classes, source.class_names, source.category_ids)


def evaluate(model, source, image_size, **options):
    from keras_sepvit.instances import evaluate as measure

    return measure(model, source, **options)


def predictor(model, size, labels, options):
    from keras_sepvit.inference import KerasInstanceSegmenter

    segmenter = KerasInstanceSegmenter(model, labels)
    check_photo_size(size, *segmenter.image_shape[:2])
    return segmenter
