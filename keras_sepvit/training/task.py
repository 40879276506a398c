"""What the engine asks of a task, and what a task's scores are.

A task brings data, a network, losses, results and pictures. It holds no state of a run: the
engine calls it, and keeps what must be kept.
"""

import abc


class Task(abc.ABC):
    """A kind of problem that a network is trained for, set up by a recipe.

    Examples are dicts of tensors of fixed shapes with an `"image"`, uint8 (height, width, 3) of
    0..255; what else is in them only the task knows. `transform...` and `draw` are TensorFlow
    operations of the input pipeline; `losses`, `answers` and the augmentation are `keras.ops` on
    the device.

    Args:
        recipe: The task's `Recipe`.

    Attributes:
        loss_names: Keys of what `losses` gives, which the logs have.
        best: The result by which `best.keras` is chosen; the higher the better.
        curves: The results that `curves.png` shows beside the loss, in percent.
    """

    loss_names = ("loss",)
    best = None
    curves = ()

    def __init__(self, recipe):
        self.recipe = recipe

    @abc.abstractmethod
    def open(self):
        """The training `Source` and that of validation, or None, checked against each other."""

    def check_data(self):
        """Reads the labels before a new run's first step.

        Returns:
            What they are, as lines of text; empty for a task that reads none.

        Raises:
            ValueError: for what cannot be trained on, naming the file.
        """
        return ""

    def decide(self, devices):
        """Decides, for data that are open, what the recipe leaves to that: its `AUTOMATIC` keys.

        Args:
            devices: Number of devices that share a batch.

        Returns:
            Dict of key to what it is now, and why, as text.
        """
        return {}

    def note(self):
        """A line on what else a run trains by, told at its start; empty for nothing."""
        return ""

    @abc.abstractmethod
    def transform(self, example, seed):
        """An example to train on, from what a source loads and a stateless seed, int32 (2,)."""

    @abc.abstractmethod
    def transform_for_evaluation(self, example):
        """An example to evaluate on, from what a source loads."""

    def draw(self, seed, size, part):
        """A step's random draws for all images of all processes: dict of (size, ...) tensors.

        Args:
            seed: Stateless seed, int64 (2,).
            size: Number of images.
            part: See `augmentation`.
        """
        return {}

    @abc.abstractmethod
    def build(self, dtype, weights=None):
        """The network to train: images of 0..255 to raw outputs.

        Args:
            dtype: Name of a Keras dtype policy.
            weights: Weights to start from, as the recipe names them.
        """

    def start(self, network):
        """Gives the network of a new run, which `build` made, other values to begin with.

        A run that goes on has its own, and does not come here.

        Returns:
            What they are, in a line of text; empty where `build` has given it all it gets.
        """
        return ""

    @abc.abstractmethod
    def augmentation(self, part):
        """A new layer from a batch of examples, a dict, to images and targets, in training.

        Args:
            part: Images of a batch that one device has: what is mixed should stay on it.
        """

    @abc.abstractmethod
    def losses(self, targets, outputs):
        """Dict of `loss_names` to pairs of scalars: a total, and the weight to divide it by.

        Totals and weights add up over devices, so that the loss of all of them is exact.
        """

    @abc.abstractmethod
    def answers(self, outputs):
        """What `Scores` and users take, from raw outputs, on the device."""

    @abc.abstractmethod
    def deployed(self):
        """A new float32 model of images of 0..255 to answers.

        It takes the weights of `build`'s network in their order.
        """

    @abc.abstractmethod
    def scores(self):
        """New `Scores` of the validation data."""

    def report(self):
        """A new `Report` on the best model; None for a task that has none."""
        return None

    @abc.abstractmethod
    def files(self):
        """What else the run's folder gets: dict of file name to text."""

    @abc.abstractmethod
    def draw_batch(self, path, images, targets):
        """Draws augmented images (batch, height, width, 3) of 0..255 with their targets."""


class Scores(abc.ABC):
    """Results of an evaluation, added up batch by batch in NumPy on the host."""

    @abc.abstractmethod
    def update(self, answers, examples):
        """Adds images: `answers` of the network, and their `examples` with names (bytes)."""

    @abc.abstractmethod
    def state(self):
        """What `merge` takes; can be pickled."""

    @abc.abstractmethod
    def merge(self, states):
        """Takes the place of the `states` of all processes, this one's among them."""

    @abc.abstractmethod
    def result(self):
        """Dict of results by name: shares in percent, others in their units; None for none."""

    @abc.abstractmethod
    def counts(self):
        """Dict of numbers of images by name: those that the results are of, and those left out."""


class Report(Scores):
    """Scores that are told by class, with pictures.

    `keras_sepvit.training.by_class` has what reports are made of.
    """

    @abc.abstractmethod
    def text(self):
        """The results as lines for a terminal."""

    @abc.abstractmethod
    def record(self):
        """What the results by class are, as values that JSON can hold: a dict."""

    @abc.abstractmethod
    def write(self, folder):
        """Writes tables and pictures into a folder that is there, and takes old ones away.

        Returns:
            The paths of the files.
        """
