"""A command's lines are its own: TensorFlow's are kept away, and warnings are one line."""

import contextlib
import importlib.util
import os
import sys
import tempfile
import warnings

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def only_own_lines():
    """Hides what TensorFlow logs, unless the user has set `TF_CPP_MIN_LOG_LEVEL`.

    Errors still come as exceptions. Warnings lose their place in the code, which is none of
    the user's.
    """
    warnings.formatwarning = lambda message, *where, **line: f"Warning: {message}\n"
    if _LEVEL not in os.environ:
        os.environ[_LEVEL] = "3"
        sys.meta_path.insert(0, _QuietTensorFlow())


class _QuietTensorFlow:
    """A finder by which TensorFlow is imported with standard error kept back.

    It logs its build and missing GPUs there before it looks at `TF_CPP_MIN_LOG_LEVEL`.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            loader, exec_module = spec.loader, spec.loader.exec_module

            def exec_module_quietly(module):
                vars(loader).pop("exec_module", None)
                with _stderr_kept_back():
                    exec_module(module)

            loader.exec_module = exec_module_quietly
        return spec


@contextlib.contextmanager
def _stderr_kept_back():
    """What this process writes to file descriptor 2 shows only after an exception."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
