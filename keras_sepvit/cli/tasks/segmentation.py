"""What the commands do with segmenters."""

from keras_sepvit.cli.common import check_photo_size, one_line

KIND = "segmenter"
SCORES = ("miou",)
EVALUATION_OPTIONS = ("sides", "scales", "flip", "window", "stride")
PREDICTION_OPTIONS = ("top", "output", "overwrite")
BATCH_SIZE = AT_A_TIME = 1
OUTPUTS = ("mask", "overlay")


def takes(model):
    from keras_sepvit import runtime

    if isinstance(model, runtime.ImageSegmenter | runtime.ImageClassifier | runtime.ImageDetector):
        return isinstance(model, runtime.ImageSegmenter)
    from keras_sepvit.segmentation.segmenter import is_segmenter

    return is_segmenter(model)


def classes(model):
    return None


def open_source(name, split, data_dir=None):
    from keras_sepvit.segmentation import sources

    return sources.open_source(name, split)


def open_splits(name, train_split, validation_split, data_dir=None):
    from keras_sepvit.segmentation import sources

    return sources.open_splits(name, train_split, validation_split)


def details(source):
    from keras_sepvit.segmentation import SegmentationReport

    return SegmentationReport(source.classes, source.class_names)


def evaluate(model, source, image_size, **options):
    from keras_sepvit.segmentation import evaluate as measure

    return measure(model, source, **options)


def note(model):
    from keras_sepvit import runtime

    if not isinstance(model, runtime.ImageSegmenter) or model.record.activation is not None:
        return None
    return (
        "the file gives class maps, which are enlarged to the photos' sizes by the nearest pixel: "
        "scores differ a little from its .keras file's, which enlarges logits. Files exported with "
        "--logits agree."
    )


def predictor(model, size, labels, options):
    from keras_sepvit.inference import KerasSegmenter

    segmenter = KerasSegmenter(model, labels)
    check_photo_size(size, *segmenter.image_shape[:2])
    return segmenter


def predict(segmenter, files, outputs, top=5, **options):
    """The classes of most of a photo's pixels, and the files written; if it is unreadable, why."""
    import numpy as np

    from keras_sepvit import visualize
    from keras_sepvit.runtime.images import read_photo
    from keras_sepvit.runtime.labels import numbered

    (path,) = files
    record = {"image": str(path)}
    try:
        photo = read_photo(path)
    except (ValueError, OSError) as error:
        return [{**record, "error": one_line(error)}]
    class_map = segmenter.segment(photo)
    names = segmenter.class_names or numbered(256)
    if class_map.max() >= len(names):
        raise ValueError(f"`labels` has {len(names)} names; {path} has class {class_map.max()}.")
    shares = np.bincount(class_map.ravel()) / class_map.size
    order = np.argsort(-shares, kind="stable")[:top]
    record["classes"] = [
        {"class": int(number), "label": names[number], "share": float(shares[number])}
        for number in order
        if shares[number]
    ]
    for written in outputs:
        visualize.save_class_map(written["mask"], class_map)
        visualize.draw_class_map(photo, class_map, segmenter.class_names).save(written["overlay"])
        record |= {kind: str(file) for kind, file in written.items()}
    return [record]


def lines(record):
    return [f"  {found['share']:7.2%}  {found['label']}" for found in record["classes"]]
