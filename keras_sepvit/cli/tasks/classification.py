"""What the commands do with classifiers."""

from keras_sepvit.cli.common import one_line

KIND = "classifier"
SCORES = ("top1",)
EVALUATION_OPTIONS = ("crop", "interpolation", "activation", "data_dir")
PREDICTION_OPTIONS = ("crop", "interpolation", "activation", "top")
BATCH_SIZE = AT_A_TIME = 64
OUTPUTS = ()


def takes(model):
    return True


def classes(model):
    return len(model.class_names) if hasattr(model, "class_names") else model.output_shape[-1]


def open_source(name, split, data_dir=None):
    from keras_sepvit.training.sources import labelled

    return labelled.open_source(name, split, data_dir)


def open_splits(name, train_split, validation_split, data_dir=None):
    from keras_sepvit.training.sources import labelled

    return labelled.open_splits(name, train_split, validation_split, data_dir)


def details(source):
    from keras_sepvit.classification import ClassificationReport

    if source.multi_label:
        return None  # as images have no class each
    return ClassificationReport(source.classes, source.class_names)


def evaluate(model, source, image_size, data_dir=None, **options):
    from keras_sepvit.classification import evaluate as measure

    return measure(model, source, image_size=image_size, **options)


def note(model):
    return None


def predictor(model, size, labels, options):
    from keras_sepvit.inference import KerasPredictor

    how = {
        name: options[name] for name in ("crop", "interpolation", "activation") if name in options
    }
    return KerasPredictor(model, labels, image_size=size, **how)


def predict(classifier, files, outputs, top=5, **options):
    """The most probable classes of images; of one that cannot be read, why."""
    import numpy as np

    from keras_sepvit import runtime

    records, pictures = [], {}
    for path in files:
        record = {"image": str(path)}
        try:
            pictures[len(records)] = classifier.read_image(path)
        except (ValueError, OSError) as error:
            record["error"] = one_line(error)
        records.append(record)
    if pictures:
        probabilities = classifier.predict(np.stack(list(pictures.values())))
        for number, scores in zip(pictures, probabilities, strict=True):
            best = runtime.best_classes(scores, classifier.class_names, top)
            records[number]["predictions"] = [
                {"class": number, "label": label, "probability": probability}
                for number, label, probability in best
            ]
    return records


def lines(record):
    return [f"  {guess['probability']:7.2%}  {guess['label']}" for guess in record["predictions"]]
