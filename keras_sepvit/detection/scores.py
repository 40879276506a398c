"""COCO's average precision and recall, by faster-coco-eval. Without Keras."""

import dataclasses
import json

import numpy as np

from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.runtime.detector import in_photo
from keras_sepvit.training.task import Scores

# COCO's twelve numbers in the order of its evaluation.
BOX_SCORES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is in a picture, and what was found; boxes are (left, top, right, bottom) in pixels.

    Attributes:
        truth: Dict of `"boxes"` float64 (n, 4), `"labels"` int32 (n,), `"crowd"` bool (n,),
            `"area"` float64 (n,).
        found: Dict of `"boxes"` and `"labels"` alike, `"confidence"` float64 (n,).
        image_id: The picture's id in its data, an int or a string; None if it has none.
    """

    truth: dict
    found: dict
    image_id: int | str | None = None


class DetectionScores(Scores):
    """COCO's twelve numbers of boxes in photos, by the boxes of all pictures.

    Pictures and boxes are numbered here, whatever ids they have elsewhere: those that are missing,
    doubled or 0 do no harm. Of equally sure boxes those of the lower `image_id` go first, as in
    COCO's evaluation; without ids, those of pictures added first.

    Args:
        classes: Number of classes.

    Results in percent, None where there is nothing to find: `ap` (mean over the IoU thresholds
    0.5 to 0.95, and over classes with objects), `ap50`, `ap75`; `ap_small`, `ap_medium` and
    `ap_large`, of objects below 32 x 32, to 96 x 96, and above; `ar_1`, `ar_10` and `ar_100`,
    recall with so many boxes of a class in a picture at most; `ar_small`, `ar_medium`, `ar_large`.

    Raises:
        ImportError: without faster-coco-eval.
    """

    # A picture's arrays and their types.
    _truth = {"boxes": "float64", "labels": "int32", "crowd": "bool", "area": "float64"}
    _found = {"boxes": "float64", "labels": "int32", "confidence": "float64"}

    def __init__(self, classes):
        coco_eval()  # before anything is computed for it
        self.classes = classes
        self._pictures = []
        self._evaluated = {}

    @property
    def pictures(self):
        """The `Picture`s, in the order in which they are evaluated."""
        return sorted(self._pictures, key=lambda picture: _order(picture.image_id))

    def update(self, answers, examples):
        """Adds photos on canvases, where `fit_into` places them, at the photos' own sizes.

        Args:
            answers: Dict of detections on the canvases: `"boxes"` (images, n, 4), `"labels"` and
                `"confidence"` (images, n), with -1 as label behind the last.
            examples: Dict of the `"image"`s, the canvases, uint8 (images, height, width, 3), and
                their `"photo_size"`, ints (images, 2), `"name"`, bytes, and `"id"`, `image_id` as
                JSON, bytes; `"boxes"` (images, m, 4), `"labels"`, `"crowd"` and `"area"`
                (images, m) of the truth in the photos' own pixels, with -1 as label behind the
                last.

        Raises:
            ValueError: as `add`.
        """
        for number, (image, size) in enumerate(
            zip(examples["image"], examples["photo_size"].tolist(), strict=True)
        ):
            image_id = json.loads(examples["id"][number])
            truth = self._truth_of(examples, number, image_id)
            found = {key: answers[key][number] for key in self._found}
            placement = fit_into(size, image.shape[:2])
            found = in_photo(found, placement)
            height, width = placement.size
            name = examples["name"][number].decode(errors="replace")
            self.add(truth, found, image[:height, :width], name, image_id, tuple(size))

    def _truth_of(self, examples, number, image_id):
        return {key: examples[key][number] for key in DetectionScores._truth}

    def add(self, truth, found, image=None, name="", image_id=None, photo_size=None):
        """Adds a photo.

        Args:
            truth: Dict of `"boxes"` (n, 4), (left, top, right, bottom) in pixels of the photo, and
                `"labels"` (n,), ints from 0; rows with labels below 0 are padding. `"crowd"` (n,)
                tells boxes around many objects, in which detections do not count; `"area"` (n,)
                the objects' own areas, by which they are small or large, else those of the boxes.
            found: Dict of `"boxes"` and `"labels"` alike, and `"confidence"` (n,).
            image: The photo, uint8 (height, width, 3), for a report.
            name: What tells it, there.
            image_id: Its id in its data, an int or a string.
            photo_size: (height, width) that the boxes are in, where the image is smaller.

        Returns:
            The `Picture`.

        Raises:
            ValueError: for arrays of other shapes, boxes that are not finite, and labels of other
                classes.
        """
        picture = Picture(
            self._checked("truth", _with_defaults(truth), self._truth),
            self._checked("found", found, self._found),
            image_id,
        )
        self._pictures.append(picture)
        self._evaluated = {}
        return picture

    def _checked(self, what, arrays, kinds):
        """A picture's arrays without padding, of their types."""
        labels = np.asarray(arrays["labels"])
        kept = labels >= 0
        if labels.ndim != 1 or (kept.any() and labels.max() >= self.classes):
            got = labels.shape if labels.ndim != 1 else f"the class {labels.max()}"
            raise ValueError(
                f"`{what}` must have labels (n,) of the {self.classes} classes, from 0 on. "
                f"Received: {got}."
            )
        checked = {}
        for key, dtype in kinds.items():
            shape = (len(labels), *(4,) * (key == "boxes"))
            values = np.asarray(arrays[key], dtype)
            values = values.reshape(shape) if not len(labels) and not values.size else values
            numbers = dtype != "object"
            if values.shape != shape or (numbers and not np.isfinite(values[kept]).all()):
                got = "NaN or infinite values" if values.shape == shape else values.shape
                raise ValueError(
                    f"`{what}` must have {key} {shape}, finite, for {len(labels)} labels. "
                    f"Received: {got}."
                )
            checked[key] = values[kept]
        return checked

    def state(self):
        packed = [
            {
                "counts": np.array([len(rows["labels"]) for rows in part], "int64"),
                **{
                    key: np.concatenate(
                        [np.empty((0, *(4,) * (key == "boxes")), dtype), *(r[key] for r in part)]
                    )
                    for key, dtype in kinds.items()
                },
            }
            for part, kinds in (
                ([picture.truth for picture in self._pictures], self._truth),
                ([picture.found for picture in self._pictures], self._found),
            )
        ]
        return *packed, [picture.image_id for picture in self._pictures]

    def merge(self, states):
        self._pictures, self._evaluated = [], {}
        for truth, found, ids in states:
            parts = []
            for arrays in (truth, found):
                ends = np.cumsum(arrays["counts"])[:-1]
                columns = {
                    key: np.split(values, ends) for key, values in arrays.items() if key != "counts"
                }
                parts.append(columns)
            for number, image_id in enumerate(ids):
                rows = ({key: values[number] for key, values in part.items()} for part in parts)
                self._pictures.append(Picture(*rows, image_id))

    def evaluated(self, kind="bbox"):
        """The `Evaluation` of what was added, by COCO's `kind` of IoU: that of boxes."""
        if kind not in self._evaluated:
            self._evaluated[kind] = coco_evaluation(self.pictures, range(self.classes), kind)
        return self._evaluated[kind]

    def result(self):
        return {name.lower(): value for name, value in self.evaluated().scores.items()}

    def counts(self):
        objects = sum(int((~picture.truth["crowd"]).sum()) for picture in self._pictures)
        return {"images": len(self._pictures), "objects": objects}


def box_scores(truths, detections):
    """COCO's scores of detections.

    Pictures and boxes are numbered here, whatever numbers they have elsewhere.

    Args:
        truths: A dict for each picture of `"boxes"` (n, 4), (left, top, right, bottom) in
            pixels, and `"labels"` (n,), ints from 0; rows with labels below 0 are padding.
            Optional `"crowd"` and `"area"` (n,), as for `DetectionScores.add`.
        detections: A dict for each picture, in the same order, of `"boxes"` and `"labels"`
            alike, and `"confidence"` (n,).

    Returns:
        Dict of the scores by name (`BOX_SCORES`), in percent; None where there is no
        object to find, such as none of that size.

    Raises:
        ValueError: if the numbers of pictures differ, and as `DetectionScores.add`.
        ImportError: without faster-coco-eval.
    """
    if len(truths) != len(detections):
        raise ValueError(
            "`truths` and `detections` must be of the same pictures. "
            f"Received: {len(truths)} truths, {len(detections)} detections."
        )
    labels = [np.max(row["labels"], initial=-1) for row in (*truths, *detections)]
    scores = DetectionScores(int(max(labels, default=-1)) + 1)
    for truth, found in zip(truths, detections, strict=True):
        scores.add(truth, found)
    return scores.evaluated().scores


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What COCO's evaluation gives.

    Attributes:
        scores: Dict of the twelve numbers by name (`BOX_SCORES`), in percent; None where there
            is nothing to find.
        precision: float64 (10, 101, classes), 0..1: by IoU threshold (0.5 to 0.95 by 0.05), at
            recalls of 0 to 1 by 0.01, with at most 100 boxes of a class in a picture; -1 for
            classes without objects.
    """

    scores: dict
    precision: np.ndarray


def coco_evaluation(pictures, classes, kind="bbox"):
    """COCO's evaluation of `Picture`s.

    Args:
        pictures: The `Picture`s. Of the kind "segm" both parts have `"masks"`, an object array
            (n,) of compressed RLEs, and the truth `"masked"`, bool (n,): in those that are false
            detections do not count, as in crowds.
        classes: The ints that labels are among.
        kind: Of the IoU: `"bbox"`, of boxes, or `"segm"`, of masks.

    Returns:
        The `Evaluation`.
    """
    coco, evaluator = coco_eval()
    annotations, results = [], []
    for number, picture in enumerate(pictures):
        for rows, part in ((annotations, picture.truth), (results, picture.found)):
            new = _annotations(part, number, len(rows) + 1)
            rows.extend(_with_masks(new, part) if kind == "segm" else new)
    shared = {
        "images": [{"id": number, **_size_of(picture)} for number, picture in enumerate(pictures)],
        "categories": [{"id": label, "name": str(label)} for label in classes],
    }
    evaluation = evaluator(
        coco({**shared, "annotations": annotations}),
        coco({**shared, "annotations": results}),
        iouType=kind,
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    scores = {
        name: None if value < 0 else 100 * float(value)
        for name, value in zip(BOX_SCORES, evaluation.stats, strict=False)
    }
    return Evaluation(scores, evaluation.eval["precision"][:, :, :, 0, -1])


def coco_eval():
    """faster-coco-eval's classes `COCO` and `COCOeval_faster`.

    Raises:
        ImportError: without it.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(
            'COCO\'s scores need faster-coco-eval: pip install "keras-sepvit[detection]".'
        ) from error
    return COCO, COCOeval_faster


def _annotations(part, image, first):
    """COCO's form of a picture's boxes: a dict for each, numbered from `first`."""
    corners = part["boxes"].tolist()
    rows = []
    for number, (left, top, right, bottom) in enumerate(corners):
        width, height = right - left, bottom - top
        row = {
            "id": first + number,
            "image_id": image,
            "category_id": int(part["labels"][number]),
            "bbox": [left, top, width, height],
            "area": float(part["area"][number]) if "area" in part else width * height,
            "iscrowd": int(part["crowd"][number]) if "crowd" in part else 0,
        }
        if "confidence" in part:
            row["score"] = float(part["confidence"][number])
        rows.append(row)
    return rows


def _with_masks(rows, part):
    """Rows of `_annotations` with masks, by whose areas detections are small or large."""
    from faster_coco_eval.core import mask

    masks = part["masks"].tolist()
    if "masked" in part:
        for row, rle, masked in zip(rows, masks, part["masked"], strict=True):
            row |= {"segmentation": rle, "iscrowd": int(row["iscrowd"] or not masked)}
    else:
        for row, rle in zip(rows, masks, strict=True):
            row |= {"segmentation": rle, "area": float(mask.area(rle))}
    return rows


def _size_of(picture):
    """A picture's size, where it has a mask: it is that of all."""
    masks = [*picture.truth.get("masks", ()), *picture.found.get("masks", ())]
    return dict(zip(("height", "width"), masks[0]["size"], strict=True)) if masks else {}


def _with_defaults(truth):
    boxes = np.asarray(truth["boxes"], "float64").reshape(-1, 4)
    return {
        "crowd": np.zeros(len(boxes), bool),
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        **truth,
    }


def _order(image_id):
    """What pictures are sorted by; those without an id stay in their order."""
    if image_id is None:
        return 0, 0, ""
    return (1, image_id, "") if isinstance(image_id, int) else (2, 0, str(image_id))
