"""Evaluation: one loop for the trainer, the command, and files of every kind."""

import keras

from keras_sepvit.training.report import DataReport


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


def _rows(arrays, chosen):
    if chosen.all():
        return arrays
    return keras.tree.map_structure(lambda array: array[chosen], arrays)
