"""Trains by the digits recipe and kills itself: MOMENT FOLDER CHANGE...

MOMENT is `epoch` (before a random batch that follows a checkpoint), `checkpoint` (a checkpoint is
half written) or `evaluation` (before a random batch of it).
"""

import os
import random
import signal
import sys

from training_data import SMALL_DIGITS

from keras_sepvit.classification import scores, task
from keras_sepvit.training import Trainer, callbacks, checkpoint, load_recipe


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_epoch():
    batch_begin = callbacks.Checkpoints.on_train_batch_begin
    left = random.randrange(1, 4)

    def on_train_batch_begin(self, batch, logs=None):
        nonlocal left
        batch_begin(self, batch, logs)
        if self.path.exists():
            left -= 1
            if not left:
                kill()

    callbacks.Checkpoints.on_train_batch_begin = on_train_batch_begin


def kill_in_checkpoint():
    save = checkpoint.np.savez

    def savez(file, **arrays):
        save(file, **arrays)
        file.truncate(random.randrange(1, file.tell()))
        kill()

    checkpoint.np.savez = savez


def kill_in_evaluation():
    left = random.randrange(1, 4)

    update = scores.ClassificationScores.update

    def update_and_kill(self, *arguments):
        nonlocal left
        left -= 1
        if not left:
            kill()
        update(self, *arguments)

    scores.ClassificationScores.update = update_and_kill


if __name__ == "__main__":
    task.DIGITS_CONFIG = SMALL_DIGITS
    moment, folder, *changes = sys.argv[1:]
    {"epoch": kill_in_epoch, "checkpoint": kill_in_checkpoint, "evaluation": kill_in_evaluation}[
        moment
    ]()
    Trainer(load_recipe("digits", changes), folder).train(verbose=0)
