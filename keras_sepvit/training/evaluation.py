"""Evaluation: one loop for the trainer, the command, and files of every kind."""

import keras

from keras_sepvit.training.report import DataReport
from keras_sepvit.validation import counted


def evaluate(predict, batches, scores, *, report=None, gather=None, verbose=0):
    """Measures what answers are worth.

    Args:
        predict: Function of a batch of images, uint8 (batch, height, width, 3) of 0..255, that
            gives their answers as NumPy arrays of (batch, ...), one or a dict of them.
        batches: What `evaluation_batches` gives; those of this process.
        scores: New `Scores` of the task.
        report: The `DataReport` that `batches` adds unreadable images to.
        gather: Function from this process's value to the list of those of all processes; None
            where there is one process.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        Dict of results, as `Scores.result` gives them.

    Raises:
        ValueError: if the data cannot be evaluated on.
    """
    report = DataReport() if report is None else report
    progress = keras.utils.Progbar(int(batches.cardinality()), verbose=verbose)
    gather = gather or (lambda value: [value])
    images = 0
    with report.raising():
        for examples in batches.as_numpy_iterator():
            answers = predict(examples["image"])
            counts = examples.pop("counts")
            images += int(counts.sum())
            scores.update(_rows(answers, counts), _rows(examples, counts))
            progress.add(1)
    if not sum(gather(images)):
        raise ValueError(f"There is nothing to evaluate: {report}.")
    scores.merge(gather(scores.state()))
    return scores.result()


def answers_of_photos(predict, source, report, verbose=0):
    """Photos of a source with what a model finds in them, as they are ready.

    Args:
        predict: Function from pairs of a key and a photo to pairs of the key and an answer.
        source: What has `size` and `read(number)`: name, photo, truth.
        report: A `DataReport` that unreadable photos, which are left out, are added to.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        Generator of number, name, photo, truth and answer.
    """
    progress = keras.utils.Progbar(source.size, verbose=verbose)
    waiting = {}

    def photos():
        for number in range(source.size):
            try:
                waiting[number] = source.read(number)
            except OSError as error:
                report.add([str(error)])
                progress.add(1)
                continue
            yield number, waiting[number][1]

    for number, answer in predict(photos()):
        yield number, *waiting.pop(number), answer
        progress.add(1)


def check_classes(classes, source):
    """Refuses a model of another number of classes than a source; None where it is not known."""
    if classes not in (None, source.classes):
        raise ValueError(
            f"The model has {counted(classes, 'class')}, and {source} has {source.classes:,}. "
            "Evaluate it on data with the classes that it was trained on."
        )


def _rows(arrays, chosen):
    if chosen.all():
        return arrays
    return keras.tree.map_structure(lambda array: array[chosen], arrays)


def class_order(names, source):
    """Where the classes of a source are among those of a model, matched by name.

    Args:
        names: Names of the model's classes in order, or None.
        source: The `Source`.

    Returns:
        The model's number of each class of the source; None where that is the same, or one of
        both has no names.

    Raises:
        ValueError: if the names differ, or are no names of one class each.
    """
    if not names or not source.class_names or list(names) == list(source.class_names):
        return None
    positions = {name: position for position, name in enumerate(names)}
    if len(positions) < len(names) or sorted(names) != sorted(source.class_names):
        raise ValueError(
            f"The model's classes are {_listed(names)}, and those of {source} are "
            f"{_listed(source.class_names)}. Give the same names to both: those of the model are "
            "its `class_names`, in the order of its outputs."
        )
    return [positions[name] for name in source.class_names]


def _listed(names):
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
