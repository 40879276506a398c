"""Starts Python modules in processes of their own, which have backends of their own."""

import importlib.util
import os
import subprocess
import sys

# The last lines of a process's output that an error quotes.
_QUOTED_LINES = 12


def run_module(module, *arguments, python=None, stderr=None, **variables):
    """Runs a module in a fresh Python process that imports what this one can.

    Args:
        module: Its name.
        *arguments: Strings for its command line.
        python: Another interpreter to run it with, as a file, and with what is installed
            there alone: for a module that imports nothing of this package.
        stderr: As for `subprocess.run`: None to leave it to be seen, `subprocess.STDOUT`
            to have it in `stdout`.
        **variables: Environment variables to set.

    Returns:
        A `subprocess.CompletedProcess` with its output as text in `stdout`.

    Raises:
        OSError: if `python` cannot be run.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    if python is None:
        command = [sys.executable, "-m", module]
    else:  # isolated: no PYTHONPATH, and no import of the files beside the module's
        command = [python, "-I", importlib.util.find_spec(module).origin]
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": path, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        errors="replace",
    )


def last_lines(text):
    """The end of a process's output, for an error."""
    return "\n".join(text.splitlines()[-_QUOTED_LINES:])
