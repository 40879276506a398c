"""What could not be read, and why a pipeline stopped."""

import contextlib
import logging
import threading

from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import counted

# How many names of unreadable images a report shows.
_SHOWN_NAMES = 20

# What reading a data set's files of records raises, unlike reading one image.
_RECORD_ERRORS = (tf.errors.DataLossError, tf.errors.NotFoundError)

_log = logging.getLogger(__name__)


class DataReport:
    """The images of a data set that could not be read.

    Attributes:
        names: Their names, each once, in the order in which they were met.
        failure: Why the pipeline stopped, or None.
    """

    def __init__(self):
        self.names = []
        self.failure = None
        self._known = set()
        self._lock = threading.Lock()

    def __str__(self):
        if not self.names:
            return "all images could be read"
        shown = ", ".join(self.names[:_SHOWN_NAMES])
        more = ", ..." if self.unreadable > _SHOWN_NAMES else ""
        return f"{counted(self.unreadable, 'image')} could not be read: {shown}{more}"

    @property
    def unreadable(self):
        """The number of images that could not be read."""
        return len(self.names)

    def add(self, names):
        """Adds images, and warns of the first ones."""
        with self._lock:
            for name in names:
                if name not in self._known:
                    self._known.add(name)
                    self.names.append(name)
                    if len(self.names) <= _SHOWN_NAMES:
                        _log.warning("Skipped an image that cannot be read: %s", name)

    @contextlib.contextmanager
    def raising(self):
        """Turns TensorFlow's error into a ValueError where the data are why it stopped."""
        try:
            yield
        except Exception as error:  # each backend's `fit` has its own way of passing it on
            reason = self.failure
            if reason is None and isinstance(error, _RECORD_ERRORS):
                reason = (
                    f"A file of records is damaged or missing: {str(error).splitlines()[0]} "
                    "Prepare the data set again."
                )
            if reason is None:
                raise
            raise ValueError(reason) from error
