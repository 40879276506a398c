"""Trains by a recipe with a small network and kills itself: MOMENT RECIPE FOLDER CHANGE...

MOMENT is `epoch` (before a random batch that follows a checkpoint), `checkpoint` (a checkpoint is
half written) or `evaluation` (before a random batch of it).
"""

import os
import random
import signal
import sys

from helpers import SMALL
from training_data import SMALL_DIGITS

from keras_sepvit.classification import task as classification
from keras_sepvit.classification.scores import ClassificationScores
from keras_sepvit.detection import task as detection
from keras_sepvit.detection.scores import DetectionScores
from keras_sepvit.instances.scores import InstanceScores
from keras_sepvit.segmentation import task as segmentation
from keras_sepvit.segmentation.scores import SegmentationScores
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

    def killing(update):
        def update_and_kill(self, *arguments):
            nonlocal left
            left -= 1
            if not left:
                kill()
            update(self, *arguments)

        return update_and_kill

    for scores in (ClassificationScores, DetectionScores, InstanceScores, SegmentationScores):
        scores.update = killing(scores.update)


if __name__ == "__main__":
    classification.DIGITS_CONFIG = SMALL_DIGITS
    detection.SCENES_128_CONFIG = segmentation.SCENES_CONFIG = SMALL
    moment, recipe, folder, *changes = sys.argv[1:]
    {"epoch": kill_in_epoch, "checkpoint": kill_in_checkpoint, "evaluation": kill_in_evaluation}[
        moment
    ]()
    Trainer(load_recipe(recipe, changes), folder).train(verbose=0)
