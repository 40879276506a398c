"""scikit-learn's scans of handwritten digits, divided by fifths. Without TensorFlow and Keras."""

import re

import numpy as np

DIGITS_FOLDS = 5
BRIGHTEST = 16


def load_digits_split(split):
    """The scans of one part of the digits.

    Args:
        split: `"train"` or `"validation"`; `"train-fold2"` and `"validation-fold2"`, say,
            hold out another fifth. Without a number it is fold 0, of 0 to 4.

    Returns:
        Scans, float64 (count, 8, 8) of 0..16, and labels, int (count,) of 0..9.

    Raises:
        ValueError: for another split.
        ImportError: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'The digits come with scikit-learn: pip install "keras-sepvit[train]".'
        ) from error

    match = re.fullmatch(r"(train|validation)(?:-fold(\d+))?", split)
    fold = int(match[2] or 0) if match else None
    if fold is None or fold >= DIGITS_FOLDS:
        raise ValueError(
            f"The digits have no split {split!r}. Expected 'train' or 'validation', with "
            f"'-fold0' to '-fold{DIGITS_FOLDS - 1}' behind it for another fifth held out."
        )
    scans, labels = load_digits(return_X_y=True)
    train, held_out = _fold(labels, fold)
    indices = train if match[1] == "train" else held_out
    return scans[indices].reshape(-1, 8, 8), labels[indices]


def _fold(labels, fold):
    """Indices to train on and to hold out, by class in the same proportions."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    # What the quick start and the weights `"digits"` hold out.
    rest, first = train_test_split(
        np.arange(len(labels)), test_size=1 / DIGITS_FOLDS, stratify=labels, random_state=0
    )
    if fold == 0:
        return rest, first
    folds = StratifiedKFold(DIGITS_FOLDS - 1, shuffle=True, random_state=0)
    train, held_out = list(folds.split(rest, labels[rest]))[fold - 1]
    return np.concatenate([first, rest[train]]), rest[held_out]
