"""Which models are instance segmenters."""

from keras_sepvit.detection.mask_rcnn import MaskRCNN


def is_instance_segmenter(model):
    """Whether a Keras model gives objects with masks: one of here, or as its record says."""
    record = getattr(model, "record", None)
    return isinstance(model, MaskRCNN) or (record is not None and record.task == "instances")
