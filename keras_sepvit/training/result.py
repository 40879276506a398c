"""What a run tells at its beginning and at its end."""

import dataclasses


def announcement(trainer):
    """What a run is, as lines of text, from its `Trainer`."""
    compiled = "compiled" if trainer.model.jit_compile else "not compiled"
    decisions = ", ".join(f"{key}={value}" for key, value in trainer.decisions.items())
    lines = [
        f"Training on {trainer.distribution} in {trainer.precision}, {compiled}.",
        f"Data: {trainer.source}; validation: {trainer.validation_source}.",
        decisions and f"Decided: {decisions}.",
        trainer.task.note(),
        trainer.recipe.batch_note(trainer.steps / trainer.recipe.accumulate),
        trainer.started,
    ]
    return "\n".join(filter(None, lines))


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The end of a run.

    Attributes:
        folder: The run's folder.
        epochs: Epochs trained.
        best: Highest validation result, such as the top-1 accuracy in percent; None without
            validation.
        best_epoch: The epoch of `best.keras`, from 1; 0 without validation.
        history: For each epoch a dict of its number from 1, losses, `val_...` results,
            `learning_rate` and `images_per_second`.
        unreadable: How many images could not be read, of training and validation data.
        unreadable_names: Their names.
    """

    folder: str
    epochs: int
    best: float | None
    best_epoch: int
    history: list
    unreadable: int
    unreadable_names: list
