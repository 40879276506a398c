"""What `evaluate` and `predict` do with the models of each task: a module a task, of one form.

Imports nothing slow: the modules import Keras, and all else, inside their functions. Each has:

- `KIND`: what its models are called.
- `SCORES`: of what `evaluate` gives, the results that models are judged by, in percent.
- `EVALUATION_OPTIONS`, `PREDICTION_OPTIONS`: arguments of the commands that not all tasks have.
- `BATCH_SIZE`, `AT_A_TIME`: images predicted, and read, at a time.
- `takes(model)`: whether a Keras model, or what predicts, is of the task.
- `classes(model)`: how many a model to evaluate has, if it tells.
- `open_source`, `open_splits`: as in the task's room, and with the folder of TFDS.
- `details(source)`, `evaluate(model, source, ...)`, `note(model)`: the report, results, a warning.
- `predictor(model, size, labels, options)`: what predicts by a Keras model.
- `OUTPUTS`: kinds of the files that a photo gets.
- `predict(predictor, files, outputs, ...)`: records of photos; `lines(record)`: as text.
"""

from keras_sepvit.cli.tasks import classification, detection, instances, segmentation

# Instance segmenters are detectors, too; the last takes what the others do not.
TASKS = (segmentation, instances, detection, classification)


def task_of(model):
    """The module for a Keras model, or for what predicts."""
    return next(task for task in TASKS if task.takes(model))


def own_options(task, command, given, weights):
    """The values of a task's own options that are given; refuses those of others.

    Args:
        task: The module.
        command: `"EVALUATION"` or `"PREDICTION"`.
        given: Dict of all tasks' options, None where they are not given.
        weights: What the user calls the model.
    """
    given = {name: value for name, value in given.items() if value is not None}
    options = {other: getattr(other, f"{command}_OPTIONS") for other in TASKS}
    for name in given:
        if name not in options[task]:
            *kinds, last = [f"{other.KIND}s" for other in TASKS if name in options[other]]
            kinds = f"{', '.join(kinds)} and {last}" if kinds else last
            article = "an" if task.KIND[0] in "aeiou" else "a"
            raise ValueError(
                f"`{name}` is for {kinds}, and {weights} is {article} {task.KIND}. Leave it out."
            )
    return given
