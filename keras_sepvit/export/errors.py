"""What goes wrong in an export, beyond bad arguments."""

import importlib


class ExportError(ValueError):
    """A model could not be converted, or the file disagrees with the model."""


def require(module, extra="export"):
    """The optional module of this name.

    Raises:
        ImportError: naming the extra to install, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This export needs the module `{module}`, which cannot be imported ({error}). "
            f'Install it with `pip install "keras-sepvit[{extra}]"`.'
        ) from error
