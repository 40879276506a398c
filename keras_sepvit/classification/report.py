"""What a classifier gets right and wrong, class by class."""

import numpy as np

from keras_sepvit.classification.scores import ClassificationScores
from keras_sepvit.fonts import legible, short
from keras_sepvit.training.by_class import (
    Worst,
    confusion_rows,
    names_of,
    rows_as_text,
    write_tables,
)
from keras_sepvit.training.task import Report

_PICTURES = ("confusion.png", "mistakes.png")


class ClassificationReport(ClassificationScores, Report):
    """Scores with the confusion matrix, results by class, and the 16 surest mistakes.

    Of images with one label each.

    Args:
        classes: Number of classes.
        class_names: Their names; their numbers are told without.

    Attributes:
        matrix: int64 (classes, classes): how many images of a class, by row, were taken for one,
            by column.
        mistakes: The wrong answers of the highest probabilities, as `Worst`.
    """

    def __init__(self, classes, class_names=None):
        super().__init__()
        self.class_names = names_of(class_names, classes)
        self.matrix = np.zeros((classes, classes), "int64")
        self.mistakes = Worst()

    def update(self, answers, examples):
        """Adds images; `examples` have their `"image"`, `"label"` and `"name"`."""
        super().update(answers, examples)
        labels, found = examples["label"], answers.argmax(axis=-1)
        np.add.at(self.matrix, (labels, found), 1)
        wrong = np.flatnonzero(found != labels)
        sureness = answers[wrong, found[wrong]]

        def tell(row):
            name = examples["name"][wrong[row]].decode(errors="replace")
            label, taken = int(labels[wrong[row]]), int(found[wrong[row]])
            return {
                "image": name,
                "class": self.class_names[label],
                "taken_for": self.class_names[taken],
                "probability": float(sureness[row]),
                "numbers": (label, taken),
            }

        self.mistakes.add(sureness, examples["image"][wrong], tell)

    def state(self):
        return super().state(), self.matrix, self.mistakes.items

    def merge(self, states):
        sums, matrices, mistakes = zip(*states, strict=True)
        super().merge(sums)
        self.matrix = np.sum(matrices, axis=0)
        self.mistakes = Worst()
        self.mistakes.merge(mistakes)

    def text(self):
        results = self.result()
        lines = [f"  top-1  {results['top1']:6.2f} %"]
        if "top5" in results:
            lines.append(f"  top-5  {results['top5']:6.2f} %")
        lines.append(f"  loss   {results['loss']:6.4f}")
        table = rows_as_text(confusion_rows(self.matrix, self.class_names), lowest="recall")
        return "\n".join((*lines, "", table))

    def record(self):
        mistakes = [told for _, _, told in self.mistakes.items]
        return {
            "classes": confusion_rows(self.matrix, self.class_names),
            "mistakes": [
                {key: value for key, value in told.items() if key != "numbers"} for told in mistakes
            ],
        }

    def write(self, folder):
        """Writes `report.json`, `classes.csv`, `confusion.csv` and the pictures."""
        write_tables(folder, self)
        if self.mistakes.items:
            self._draw_mistakes(folder / "mistakes.png")
        else:
            (folder / "mistakes.png").unlink(missing_ok=True)
        return [folder / name for name in _PICTURES if (folder / name).exists()]

    def _draw_mistakes(self, path):
        found = [told for _, _, told in self.mistakes.items]
        files = [told["image"].rsplit("/", 1)[-1] for told in found]
        shown, font = legible([*self.class_names, *files])
        titles = []
        for told, file, same in zip(found, files, shown[len(self.class_names) :], strict=True):
            label, taken = (short(shown[number]) for number in told["numbers"])
            name = short(file) if same == file else ""
            titles.append(f"{name}\n{label}, taken for\n{taken} {told['probability']:.0%}")
        self.mistakes.draw(path, titles, font)
