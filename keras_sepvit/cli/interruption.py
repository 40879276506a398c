"""Ctrl-C between two steps of a training run."""

import os
import signal

import keras


class Interruption(keras.callbacks.Callback):
    """Lets Ctrl-C end a run before its next step; pressed again, at once.

    Python itself raises KeyboardInterrupt wherever it is, and drops it in callbacks of weak
    references and in `__del__`, which libraries have: the run would go on.

    It is among the callbacks of the run, and a context manager around it.

    Raises:
        KeyboardInterrupt: from `fit`, and at the latest where the run has ended.
    """

    asked = False

    def __enter__(self):
        # Not where it is ignored, as in the background of a shell, or someone else's.
        self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, kind, *error):
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is None:
            self._stop_if_asked()

    def on_train_batch_begin(self, batch, logs=None):
        self._stop_if_asked()

    def _ask(self, number, frame):
        self._stop_if_asked()
        self.asked = True
        # Not `print`, in whose midst this may be.
        os.write(2, b"\nStopping before the next step. Ctrl-C again stops at once.\n")

    def _stop_if_asked(self):
        if self.asked:
            raise KeyboardInterrupt
