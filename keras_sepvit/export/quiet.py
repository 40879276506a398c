"""Keeps what converters say to themselves away from the user."""

import contextlib
import io
import logging
import warnings


@contextlib.contextmanager
def quiet(*names, streams=False):
    """Keeps these loggers to errors, and Python's warnings to itself.

    Args:
        *names: Names of loggers; `"root"` for that of all.
        streams: Whether to hide what Python writes to stdout and stderr, too.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            if streams:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
