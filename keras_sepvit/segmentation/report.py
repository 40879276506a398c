"""What a segmenter gets right and wrong, class by class."""

import numpy as np
from PIL import Image

from keras_sepvit.files import replacing
from keras_sepvit.fonts import legible, short
from keras_sepvit.runtime.canvas import fit_into
from keras_sepvit.segmentation.scores import SegmentationScores, by_class
from keras_sepvit.training.by_class import (
    Worst,
    confusion_rows,
    names_of,
    rows_as_text,
    write_tables,
)
from keras_sepvit.training.task import Report
from keras_sepvit.visualize import draw_class_map, with_legend
from keras_sepvit.visualize.pages import in_columns

_SIDE = 256  # of the worst photos as they are drawn
_LEAST_WIDTH = 192  # where titles of three photos' width fit
_COLUMNS = 2  # of these, with what was found in each


class SegmentationReport(SegmentationScores, Report):
    """Scores with the confusion matrix, results by class, and the 16 worst photos.

    Args:
        classes: Number of classes.
        class_names: Their names; their numbers are told without.

    Attributes:
        class_names: List of the names.
        worst: The photos of the lowest mean IoU, as `Worst`.
    """

    def __init__(self, classes, class_names=None):
        super().__init__(classes)
        self.class_names = names_of(class_names, classes)
        self.worst = Worst()

    def add(self, truth, prediction, image=None, name=""):
        matrix = super().add(truth, prediction)
        if image is None or not matrix.any():
            return matrix
        miou = 100 * float(np.nanmean(by_class(matrix)[0]))
        size = fit_into(truth.shape, (_SIDE, _SIDE)).size[::-1]

        def tell(row):
            maps = [
                np.asarray(Image.fromarray(values.astype("uint8")).resize(size, 0))
                for values in (truth, prediction)
            ]
            return {"image": name, "miou": miou, "maps": maps}

        shown = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        self.worst.add(np.array([100 - miou]), [shown], tell)
        return matrix

    def state(self):
        return super().state(), self.worst.items

    def merge(self, states):
        sums, worst = zip(*states, strict=True)
        super().merge(sums)
        self.worst = Worst()
        self.worst.merge(worst)

    def text(self):
        results = self.result()
        lines = [
            f"  mean IoU        {results['miou']:6.2f} %",
            f"  pixel accuracy  {results['aacc']:6.2f} %",
            f"  mean accuracy   {results['macc']:6.2f} %",
        ]
        return "\n".join((*lines, "", rows_as_text(self._rows(), lowest="iou")))

    def record(self):
        worst = [{key: told[key] for key in ("image", "miou")} for *_, told in self.worst.items]
        return {"classes": self._rows(), "worst": worst}

    def _rows(self):
        """A dict by class: IoU and accuracy in percent, pixels, and what it was taken for."""
        ious, _ = by_class(self.matrix)
        return [
            {
                "class": row["class"],
                "iou": None if np.isnan(iou) else 100 * float(iou),
                "accuracy": row["recall"],
                "pixels": row["images"],
                "taken_for": row["taken_for"],
            }
            for row, iou in zip(confusion_rows(self.matrix, self.class_names), ious, strict=True)
        ]

    def write(self, folder):
        """Writes `report.json`, `classes.csv`, `confusion.csv` and the pictures."""
        write_tables(folder, self, percent=True)
        if self.worst.items:
            with replacing(folder / "worst.png") as temporary:
                self._draw_worst().save(temporary)
        else:
            (folder / "worst.png").unlink(missing_ok=True)
        paths = [folder / name for name in ("confusion.png", "worst.png")]
        return [path for path in paths if path.exists()]

    def _draw_worst(self):
        """Photos, their truth and what was found, as a Pillow image."""
        files = [told["image"].rsplit("/", 1)[-1] for *_, told in self.worst.items]
        shown, font = legible(files)
        rows, titles, classes = [], [], set()
        for (_, image, told), file, same in zip(self.worst.items, files, shown, strict=True):
            name = f"{short(file)}: " if file == same else ""
            titles.append(f"{name}photo, truth, found; mean IoU {told['miou']:.1f} %")
            drawn = [draw_class_map(image, m, self.class_names, legend=False) for m in told["maps"]]
            rows.append([Image.fromarray(image), *drawn])
            classes.update(*(np.unique(values).tolist() for values in told["maps"]))
        sheet = in_columns(rows, titles, _COLUMNS, font, _LEAST_WIDTH)
        found = [number for number in sorted(classes) if number < len(self.class_names)]
        return with_legend(sheet, found, self.class_names, size=18)
