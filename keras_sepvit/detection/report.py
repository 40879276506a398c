"""What a detector gets right and wrong, class by class."""

import json

import numpy as np
from PIL import Image

from keras_sepvit.detection.curves import draw_precision
from keras_sepvit.detection.matching import WRONG, confusion, match
from keras_sepvit.detection.results import coco_results
from keras_sepvit.detection.scores import DetectionScores
from keras_sepvit.files import replacing
from keras_sepvit.fonts import legible, short
from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.runtime.detector import THRESHOLD
from keras_sepvit.training.by_class import (
    Worst,
    confusion_rows,
    names_of,
    rows_as_text,
    write_tables,
)
from keras_sepvit.training.task import Report
from keras_sepvit.visualize import draw_boxes
from keras_sepvit.visualize.boxes import sure
from keras_sepvit.visualize.pages import in_columns

_BACKGROUND = "background"
_THRESHOLDS = np.arange(1, 100) / 100  # one of them gives the best F1
_SIDE = 320  # of the worst photos as they are drawn
_LEAST_WIDTH = 240  # where titles of two photos' width fit
_COLUMNS = 2  # of photos, each with its truth and what was found
# In the text, side by side.
_SHOWN = (
    ("AP", "ap", "AR, 1 {0}", "ar_1"),
    ("AP50", "ap50", "AR, 10 {1}", "ar_10"),
    ("AP75", "ap75", "AR, 100 {1}", "ar_100"),
    ("AP, small", "ap_small", "AR, small", "ar_small"),
    ("AP, medium", "ap_medium", "AR, medium", "ar_medium"),
    ("AP, large", "ap_large", "AR, large", "ar_large"),
)


class DetectionReport(DetectionScores, Report):
    """Scores with AP and mistakes by class, precision by recall, and the 16 worst photos.

    Args:
        classes: Number of classes.
        class_names: Their names; their numbers are told without.
        category_ids: The data's own ids of the classes, for `results.json`; by default their
            numbers.

    Attributes:
        class_names: List of the names.
        worst: The photos of the lowest F1 as `Worst`: of boxes with a confidence above 0.3,
            matched at an IoU of 0.5; of equal ones those with more mistakes. Photos without
            mistakes are not among them.
    """

    def __init__(self, classes, class_names=None, category_ids=None):
        super().__init__(classes)
        self.class_names = names_of(class_names, classes)
        self.category_ids = category_ids
        self.worst = Worst()
        self._at_best = None

    def add(self, truth, found, image=None, name="", image_id=None, photo_size=None):
        picture = super().add(truth, found, image_id=image_id)
        self._at_best = None
        if image is not None:
            self._keep_worst(picture, image, name, photo_size or image.shape[:2])
        return picture

    def _keep_worst(self, picture, image, name, photo_size):
        right, wrong, objects = _counts([picture], [match(picture.truth, picture.found)], THRESHOLD)
        missed = objects - right
        if not missed + wrong:
            return
        f1 = 100 * float(_f1(right, wrong, objects))
        size = fit_into(image.shape[:2], (_SIDE, _SIDE)).size
        scale = np.tile(np.divide(size, photo_size)[::-1], 2)

        def tell(row):
            truth, found = ({**p, "boxes": p["boxes"] * scale} for p in _parts(picture))
            counts = {"missed": int(missed), "wrong": int(wrong)}
            return {"image": name, "f1": f1, **counts, "truth": truth, "found": found}

        shown = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        mistakes = missed + wrong
        badness = 100 - f1 + mistakes / (1 + mistakes) / 1000
        self.worst.add(np.array([badness]), [shown], tell)

    def state(self):
        return super().state(), self.worst.items

    def merge(self, states):
        sums, worst = zip(*states, strict=True)
        super().merge(sums)
        self.worst, self._at_best = Worst(), None
        self.worst.merge(worst)

    @property
    def matrix(self):
        """int64 (classes + 1, classes + 1): objects of a class, by row, taken for one, by column.

        Of detections above the threshold of the best F1; see `at_best`. The last column has
        objects that were not found, the last row what was found where nothing is.
        """
        return self.at_best()[1]

    def at_best(self):
        """The best F1 of all classes together, matched at an IoU of 0.5, and what it is made of.

        Returns:
            Dict of the `threshold` in hundredths, 0.3 where no object is found at any; `f1`,
            `precision` and `recall` in percent, None where there is none. And the confusion
            matrix there.
        """
        if self._at_best is None:
            pictures = self.pictures
            matches = [match(*_parts(picture)) for picture in pictures]
            right, wrong, objects = _counts(pictures, matches, _THRESHOLDS)
            f1 = _f1(right, wrong, objects)
            # Of equal ones the middle: as far as can be from where it falls.
            best = np.flatnonzero(f1 == f1.max())
            best = best[len(best) // 2] if f1.max() > 0 else np.searchsorted(_THRESHOLDS, THRESHOLD)
            threshold = float(_THRESHOLDS[best])
            told = {
                "threshold": threshold,
                "f1": _percent(f1[best], 1 if objects else 0),
                "precision": _percent(right[best], right[best] + wrong[best]),
                "recall": _percent(right[best], objects),
            }
            matrix = np.zeros((self.classes + 1,) * 2, "int64")
            for picture, rows in zip(pictures, matches, strict=True):
                matrix += confusion(*_parts(picture), rows, threshold, self.classes)
            self._at_best = told, matrix
        return self._at_best

    def text(self):
        results, (best, _) = self.result(), self.at_best()
        lines = self._tables(results)
        precision, recall = (_told(best[key]).strip() for key in ("precision", "recall"))
        told = (
            f"{_told(best['f1'])} at a threshold of {best['threshold']:.2f}: "
            f"precision {precision}, recall {recall} (IoU 0.5)"
        )
        if not best["f1"]:
            told = "-: nothing is found at any threshold (IoU 0.5)"
        lines += ["", f"  best F1     {told}"]
        return "\n".join((*lines, "", rows_as_text(self._rows(), lowest="ap")))

    def _tables(self, results):
        return table(results, "box", "boxes")

    def record(self):
        keys = "image", "f1", "missed", "wrong"
        worst = [{key: told[key] for key in keys} for *_, told in self.worst.items]
        return {"best_f1": self.at_best()[0], "classes": self._rows(), "worst": worst}

    def _rows(self):
        """A dict by class: AP, objects, and at the best F1 recall, precision, what is mistaken."""
        names = [*self.class_names, _BACKGROUND]
        rows = confusion_rows(self.matrix, names)[:-1]
        return [
            {
                "class": row["class"],
                **self._aps(number),
                "objects": row["images"],
                "recall": row["recall"],
                "precision": row["precision"],
                "taken_for": row["taken_for"],
            }
            for number, row in enumerate(rows)
        ]

    def _aps(self, number, kind="bbox"):
        precision = self.evaluated(kind).precision[:, :, number]
        return {"ap": _mean(precision), "ap50": _mean(precision[0])}

    def write(self, folder):
        """Writes `report.json`, `results.json`, `classes.csv`, `confusion.csv` and the pictures."""
        title = f"confidence above {self.at_best()[0]['threshold']:.2f}, IoU 0.5"
        write_tables(folder, self, names=[*self.class_names, _BACKGROUND], title=title)
        written = {
            "results.json": self._write_results if self._has_ids() else None,
            **self._curves(),
            "worst.png": self._write_worst if self.worst.items else None,
        }
        for name, write in written.items():
            if write is None:
                (folder / name).unlink(missing_ok=True)
            else:
                with replacing(folder / name) as temporary:
                    write(temporary)
        paths = [folder / name for name in ("confusion.png", *written) if name.endswith(".png")]
        return [path for path in paths if path.exists()]

    def _has_ids(self):
        return bool(self.pictures) and all(p.image_id is not None for p in self.pictures)

    def _write_results(self, path):
        rows = [
            json.dumps(row)
            for picture in self.pictures
            for row in coco_results(picture.found, picture.image_id, self.category_ids)
        ]
        path.write_text("[" + ",\n".join(rows) + "]\n", "utf-8")

    def _curves(self):
        """What draws each picture of precision by recall, by its name; None where there is none."""
        return {"precision_recall.png": self._curve("bbox", "precision by recall")}

    def _curve(self, kind, what):
        precision = self.evaluated(kind).precision[0]
        if precision.max(initial=-1) < 0:
            return None
        return lambda path: draw_precision(path, precision, self.class_names, what)

    def _write_worst(self, path):
        """Photos with their true boxes, beside the same with those that were found."""
        files = [told["image"].rsplit("/", 1)[-1] for *_, told in self.worst.items]
        shown, font = legible(files)
        rows, titles = [], []
        for (_, image, told), file, same in zip(self.worst.items, files, shown, strict=True):
            name = f"{short(file)}: " if file == same else ""
            counts = f"{told['missed']:,} missed, {told['wrong']:,} wrong"
            titles.append(f"{name}true; found above {THRESHOLD:.0%}: {counts}")
            parts = (told["truth"], sure(told["found"], THRESHOLD))
            rows.append([self._draw(image, part) for part in parts])
        in_columns(rows, titles, _COLUMNS, font, _LEAST_WIDTH).save(path, "PNG")

    def _draw(self, image, part):
        """A photo with a part of a `Picture`, in the photo's pixels."""
        return draw_boxes(
            image, part["boxes"], part["labels"], part.get("confidence"), self.class_names
        )


def table(results, one, many):
    """Lines with COCO's twelve numbers, of `one` thing or `many`."""
    return [
        f"  {title:10}  {_told(results[key]):8}    {beside.format(one, many):13}  "
        f"{_told(results[other])}"
        for title, key, beside, other in _SHOWN
    ]


def _parts(picture):
    return picture.truth, picture.found


def _counts(pictures, matches, thresholds):
    """How many detections are right and wrong above thresholds, and how many objects there are.

    Returns:
        Two arrays of the shape of `thresholds`, and an int.
    """
    confidence = [picture.found["confidence"] for picture in pictures]
    confidence, rows = (np.concatenate([[], *arrays]) for arrays in (confidence, matches))
    counts = []
    for chosen in (rows >= 0, rows == WRONG):
        values = np.sort(confidence[chosen])
        counts.append(len(values) - np.searchsorted(values, thresholds, side="right"))
    return *counts, sum(int((~picture.truth["crowd"]).sum()) for picture in pictures)


def _f1(right, wrong, objects):
    """Shares 0..1; 0 where there is nothing."""
    return 2 * right / np.maximum(right + wrong + objects, 1)


def _percent(part, whole):
    return 100 * float(part) / float(whole) if whole else None


def _mean(precision):
    return 100 * float(precision.mean()) if precision.min() >= 0 else None


def _told(value):
    return "     -" if value is None else f"{value:6.2f} %"
