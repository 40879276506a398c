"""What the commands do with detectors."""

from keras_sepvit.cli.common import check_photo_size, one_line
from keras_sepvit.validation import check_range, positive_int

KIND = "detector"
SCORES = ("ap", "ap50")
EVALUATION_OPTIONS = ("sides",)
PREDICTION_OPTIONS = ("threshold", "classes", "max_detections", "output", "overwrite")
BATCH_SIZE = AT_A_TIME = 1
OUTPUTS = ("overlay",)

_TOLD = ("category_id", "score", "bbox", "segmentation")  # of COCO's results
_LEAST_SIDE = 512  # of a picture, if enlarging it by a whole number does not exceed that


def takes(model):
    from keras_sepvit import runtime

    if isinstance(model, runtime.ImageSegmenter | runtime.ImageClassifier | runtime.ImageDetector):
        return isinstance(model, runtime.ImageDetector)
    from keras_sepvit.detection.detector import is_detector

    return is_detector(model)


def classes(model):
    return None


def open_source(name, split, data_dir=None):
    from keras_sepvit.detection import sources

    return sources.open_source(name, split)


def open_splits(name, train_split, validation_split, data_dir=None):
    from keras_sepvit.detection import sources

    return sources.open_splits(name, train_split, validation_split)


def details(source):
    from keras_sepvit.detection import DetectionReport

    return DetectionReport(source.classes, source.class_names, source.category_ids)


def evaluate(model, source, image_size, **options):
    from keras_sepvit.detection import evaluate as measure

    return measure(model, source, **options)


def note(model):
    return None


def predictor(model, size, labels, options):
    from keras_sepvit.inference import KerasDetector

    detector = KerasDetector(model, labels)
    check_photo_size(size, *detector.image_shape[:2])
    return detector


def predict(detector, files, outputs, threshold=None, classes=None, max_detections=None, **options):
    """The objects in a photo, and the picture that is drawn; if it is unreadable, why."""
    from keras_sepvit.detection.results import coco_results
    from keras_sepvit.runtime.detector import THRESHOLD
    from keras_sepvit.runtime.images import read_photo
    from keras_sepvit.runtime.masks import encode
    from keras_sepvit.visualize import draw_boxes, draw_instances

    threshold = THRESHOLD if threshold is None else threshold
    check_range("threshold", threshold, 0, 1)
    names = None if classes is None else _chosen(classes, detector.class_names)
    (path,) = files
    record = {"image": str(path)}
    try:
        photo = read_photo(path)
    except (ValueError, OSError) as error:
        return [{**record, "error": one_line(error)}]
    found = detector.detect(photo, threshold=threshold)
    kept = [n for n, name in enumerate(found["names"]) if names is None or name in names]
    if max_detections is not None:
        kept = kept[: positive_int("max_detections", max_detections)]  # the surest come first
    kept_rows = {key: rows[kept] for key, rows in found.items() if key != "names"}
    in_coco = dict(kept_rows)
    if "masks" in found:
        in_coco["masks"] = [encode(mask) for mask in kept_rows["masks"]]
    rows = coco_results(in_coco, None, detector.record and detector.record.category_ids)
    record["detections"] = [
        {
            "class": int(found["labels"][number]),
            "label": found["names"][number],
            **{key: row[key] for key in _TOLD if key in row},
        }
        for number, row in zip(kept, rows, strict=True)
    ]
    for written in outputs:
        scale = max(_LEAST_SIDE // max(photo.shape[:2]), 1)
        draw = draw_instances if "masks" in found else draw_boxes
        picture = draw(photo, **kept_rows, class_names=detector.class_names, scale=scale)
        picture.save(written["overlay"])
        record |= {kind: str(file) for kind, file in written.items()}
    return [record]


def _chosen(text, class_names):
    """The names in `"cat,dog"`; refuses those of no class."""
    if text in (class_names or ()):
        return [text]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--classes: expected names, such as cat,dog. Received: {text!r}.")
    unknown = [name for name in names if class_names is not None and name not in class_names]
    if unknown:
        known = ", ".join(map(repr, class_names[:20])) + ", ..." * (len(class_names) > 20)
        raise ValueError(
            f"--classes: the model has no class {unknown[0]!r}. Its classes are {known}."
        )
    return names


def lines(record):
    return [
        f"  {found['score']:7.2%}  {found['label']}  at {_place(found['bbox'])}"
        for found in record["detections"]
    ] or ["  nothing"]


def _place(box):
    left, top, width, height = (round(side) for side in box)
    return f"{left}, {top}, {width} x {height}"
