"""COCO's numbers of an instance segmenter of any kind on photos, at their own sizes."""

import keras

from keras_sepvit.detection.evaluation import measure
from keras_sepvit.instances.scores import InstanceScores
from keras_sepvit.instances.segmenter import is_instance_segmenter


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
    """Measures an instance segmenter in the photos' own pixels, as `detect` predicts them.

    Args:
        model: Keras model, such as a `MaskRCNN`; or what has a `detect` that gives masks, such as a
            `keras_sepvit.runtime.Predictor` of an exported one. All that it finds counts, from the
            threshold on that it was made with, 0.05 by default.
        source: Photos with boxes and masks, as `keras_sepvit.instances.sources.open_source` gives.
        batch_size, sides, class_names, report, verbose: As for `keras_sepvit.detection.evaluate`.
        details: An `InstanceReport` of the source's classes that photos are added to.

    Returns:
        Dict of the results of `InstanceScores` in percent, None where there is nothing to find; the
        numbers of `images` and `objects` that these are of, of objects `without_mask`, of images
        left out because they are `unreadable`, and of `shapes` of images that the model had.

    Raises:
        ValueError, ImportError: as `keras_sepvit.detection.evaluate`; for a detector without masks.
    """
    if not hasattr(source, "masks_of"):
        raise ValueError(
            "`source` must be photos with boxes and masks, as `open_source` of "
            f"`keras_sepvit.instances.sources` gives. Received: {source}."
        )
    if isinstance(model, keras.Model) and not is_instance_segmenter(model):
        raise ValueError(
            "`model` must be an instance segmenter, such as a `MaskRCNN`. Received: "
            f"`{model.name}`. `keras_sepvit.detection.evaluate` measures detectors."
        )
    scores = InstanceScores(source.classes) if details is None else details
    return measure(model, source, scores, batch_size, sides, class_names, report, verbose)
