"""A command's lines are its own: TensorFlow's are kept away, and warnings are one line."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_HIDDEN = "3"

# How libjpeg's lines on damaged files begin.
_OF_LIBJPEG = (
    *("Bogus ", "Corrupt JPEG data", "Inconsistent progression sequence", "Invalid JPEG file"),
    *("Invalid SOS parameters", "JPEG datastream ", "Premature end of JPEG file"),
    *("Unknown Adobe color transform", "Unsupported JPEG ", "Unsupported marker type"),
    "Warning: unknown JFIF revision",
)

# Passes on all other lines. Ctrl-C is for its parent.
_FILTER = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin.buffer:
    if not line.decode(errors="replace").startswith({_OF_LIBJPEG}):
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
"""


def only_own_lines():
    """Hides what TensorFlow logs, unless the user has set `TF_CPP_MIN_LOG_LEVEL`.

    Errors still come as exceptions. Warnings lose their place in the code, which is none of
    the user's.
    """
    warnings.formatwarning = lambda message, *where, **line: f"Warning: {message}\n"
    if _LEVEL not in os.environ:
        os.environ[_LEVEL] = _HIDDEN
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


@contextlib.contextmanager
def without_lines_of_libjpeg():
    """Hides what libjpeg writes of damaged JPEGs, at each reading and without their names.

    Those that cannot be read are told by name anyway. Lines go through a process of their own, so
    that the last ones of a crash are not lost. Nothing is hidden where the user has set
    `TF_CPP_MIN_LOG_LEVEL`.
    """
    if os.environ.get(_LEVEL) != _HIDDEN:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    other = subprocess.Popen([sys.executable, "-I", "-S", "-c", _FILTER], stdin=subprocess.PIPE)
    os.dup2(other.stdin.fileno(), 2)
    other.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        with contextlib.suppress(subprocess.TimeoutExpired):  # while a child holds the other end
            other.wait(timeout=5)
