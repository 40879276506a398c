"""What a run would be like, before it begins."""

import time

from keras_sepvit.training import device

# Steps and batches that are timed, and the seconds after which no further one begins.
STEPS = 30
LONGEST = 60


def dry_run(trainer, tell=None):
    """Takes batches through everything, times them, and writes nothing but labelled pictures.

    Those are `batch.png` in the run's folder, where the task reads labels of its own.

    Args:
        trainer: A new `Trainer`, which has trained after it: make another one for the run.
        tell: Called with the check of the data, a string, before the steps, which take minutes.

    Returns:
        Dict of what a user wants to know before a long run: data, labels, steps, shapes,
        parameters, precision, learning rate, losses; images a second of the steps alone and of
        the input pipeline alone, which of the two is slower, the hours of the whole run at that
        rate (without validation), and memory in bytes.
    """
    checked = trainer.task.check_data()
    if tell and checked:
        tell(checked)
    batches = trainer.training_data(0, 0).as_numpy_iterator()
    with trainer.report.raising():
        batch = next(batches)
        pipeline = _rate(lambda: next(batches)) * trainer.local_batch * trainer.shard.count
    loss = trainer.train_step(batch)  # compiles
    device_rate = _rate(lambda: trainer.train_step(batch)) * len(batch["image"])
    device_rate *= trainer.shard.count
    notes = "\n".join(filter(None, (trainer.task.note(), trainer.started)))
    images = trainer.all_steps * trainer.local_batch * trainer.shard.count
    description = {
        "training data": str(trainer.source),
        "validation data": str(trainer.validation_source),
        **({"notes": notes} if notes else {}),
        **({"labels": checked, "labelled pictures": str(trainer.draw_batch())} if checked else {}),
        "devices": str(trainer.distribution),
        "steps of an epoch": trainer.steps,
        "images of a step": batch["image"].shape,
        "dtype of the images": batch["image"].dtype.name,
        "outputs of the network": trainer.network.output_shape,
        "parameters": trainer.network.count_params(),
        "precision": trainer.precision,
        "compiled step": trainer.model.jit_compile,
        "peak learning rate": trainer.recipe.peak_learning_rate(),
        "loss": loss,
        "images per second, steps": device_rate,
        "images per second, data": pipeline,
        "limited by": "data" if pipeline < device_rate else "steps",
        "hours": images / min(pipeline, device_rate) / 3600,
    }
    if trainer.validation_source is not None:
        results = trainer.evaluate(trainer.validation_data.take(1))
        description.update({f"validation {name}": value for name, value in results.items()})
    memory = {f"{what} memory": size for what, size in device.peak_memory().items()}
    return {**description, **memory}


def _rate(call):
    """How often a second a function can be called."""
    start = time.perf_counter()
    calls = elapsed = 0
    while calls < STEPS and elapsed < LONGEST:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
    return calls / elapsed
