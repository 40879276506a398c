"""Classifiers from files, run by Keras: what several commands need."""

import pathlib

from keras_sepvit.classification import classifier
from keras_sepvit.cli.common import check_files_exist, whole_model_error
from keras_sepvit.inference import attach_record, attach_record_of, load_model
from keras_sepvit.inference import image_shape as image_shape  # for the commands
from keras_sepvit.weights.load import assign_weights, open_weights
from keras_sepvit.weights.matching import WeightsSummary
from keras_sepvit.weights.registry import registered_weights


def load_classifier(weights, variant=None, classes=None, size=None):
    """The model in a file, or that of registered weights, with its record.

    Args:
        weights: Path of a whole model (.keras) or of weights alone, or the name of
            registered weights, such as `"digits"`.
        variant, classes: What a file of weights is for; by default what its
            shapes tell. Not for whole models.
        size: (height, width) of the images of a model for weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is no model, and where the arguments do not go
            with it.
    """
    registered = registered_weights().get(str(weights))
    if registered is not None:
        if variant is not None or classes is not None:
            raise ValueError(f"'{weights}' is registered: leave out --variant and --classes.")
        model = classifier.SepViT(
            registered.variant,
            classes=registered.classes,
            input_shape=(*(size or registered.image_size), 3),
            weights=str(weights),
        )
        how = {"crop": registered.crop, "interpolation": registered.interpolation}
        attach_record(model, **how)
        return model
    path = pathlib.Path(weights)
    if not path.exists() and not path.suffix:
        names = ", ".join(registered_weights())
        raise FileNotFoundError(
            f"{weights} is neither a file nor the name of registered weights ({names})."
        )
    check_files_exist(path)
    if path.suffix != ".keras":
        model = _load_weights(path, variant, classes, size)
        attach_record_of(path, model)
        return model
    if variant is not None or classes is not None:
        raise whole_model_error(path)
    return load_model(path)


def _load_weights(path, variant, classes, size):
    """A classifier for a file of weights, whose shapes tell what it is for."""
    with open_weights(path) as arrays:
        found = WeightsSummary.of(arrays)
        if found is None:
            raise ValueError(f"{path} holds no weights of a SepViT.")
        if variant is None and found.variant is None:
            raise ValueError(
                f"{path} is for none of the known variants, but for {found}. Save the whole model "
                "as a .keras file and use that."
            )
        if classes is None and found.classes is None:
            raise ValueError(
                f"{path} has no classification head to predict with: it is for {found}."
            )
        model = classifier.SepViT(
            variant or found.variant,
            input_shape=(*size, 3) if size else None,
            classes=found.classes if classes is None else classes,
        )
        assign_weights(model, arrays, path)
    return model
