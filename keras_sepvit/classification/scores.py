"""The accuracy of a classifier."""

import numpy as np

from keras_sepvit.training.task import Scores

_TOP = 5


class ClassificationScores(Scores):
    """Accuracies and cross-entropy of probabilities.

    Where images have sets of labels (ReaL), a prediction is right if it is in the set; images
    whose set is empty are left out.

    Args:
        multi_label: Whether images have sets of labels.

    Results: `top1` and `top5` (images of whose five most probable classes one is right; only where
        there are more than five classes) in percent; `loss`, the mean cross-entropy in nats, None
        where images have sets of labels.
    """

    def __init__(self, multi_label=False):
        self.multi_label = multi_label
        self.classes = 0
        self.sums = np.zeros(5)  # right, right in five, loss, images, unlabelled

    def update(self, answers, examples):
        """Adds images.

        Args:
            answers: Probabilities (images, classes).
            examples: Dict with `"label"`: numbers (images,), or (images, classes) with 1 for each
                label of an image.
        """
        labels = examples["label"]
        self.classes = answers.shape[-1]
        if self.multi_label:
            labelled = labels.any(axis=-1)
            self.sums[4] += np.sum(~labelled)
            answers, labels = answers[labelled], labels[labelled]
        best = np.argsort(-answers, axis=-1, kind="stable")[:, :_TOP]
        if self.multi_label:
            right = np.take_along_axis(labels, best, axis=-1) > 0
        else:
            right = best == labels[:, None]
            likelihoods = np.take_along_axis(answers, labels[:, None], axis=-1)
            # Where float32 rounds a probability to 0, its logarithm stays finite.
            likelihoods = np.maximum(likelihoods, np.finfo("float32").tiny)
            self.sums[2] -= np.log(likelihoods, dtype="float64").sum()
        self.sums[:2] += right[:, 0].sum(), right.any(axis=-1).sum()
        self.sums[3] += len(labels)

    def state(self):
        return self.sums

    def merge(self, states):
        self.sums = np.sum(states, axis=0)

    def result(self):
        top1, top5, loss = (float(value) for value in self.sums[:3] / max(self.sums[3], 1))
        return {
            "top1": 100 * top1,
            **({"top5": 100 * top5} if self.classes > _TOP else {}),
            "loss": None if self.multi_label else loss,
        }

    def counts(self):
        return {"images": int(self.sums[3]), "unlabelled": int(self.sums[4])}
