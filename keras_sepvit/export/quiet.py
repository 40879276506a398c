"""Keeps what converters say to themselves away from the user."""

import contextlib
import logging
import warnings


@contextlib.contextmanager
def quiet(*names):
    """Keeps these loggers to errors, and Python's warnings to itself.

    Args:
        *names: Names of loggers; `"root"` for that of all.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
