"""What is imported at its first use: names of packages, and modules that may be missing."""

import importlib
import sys


def lazy_names(package, modules, within=None):
    """What such a package needs as its `__getattr__` and `__dir__`.

    Args:
        package: The package's `__name__`.
        modules: Dict of each public name to its module.
        within: The package that the modules are in; by default the same.
    """

    def getattr_(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{within or package}.{modules[name]}"), name)

    def dir_():
        return sorted({*vars(sys.modules[package]), *modules})

    return getattr_, dir_


def require(module, extra, user="This"):
    """The optional module of this name.

    Args:
        module: Its name.
        extra: The extra of this package that it comes with.
        user: What needs it, as the beginning of a sentence.

    Raises:
        ImportError: naming the extra to install, if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # of a library, some packages raise the other
        raise ImportError(
            f"{user} needs the module `{module}`, which cannot be imported ({error}). "
            f'Install it with `pip install "keras-sepvit[{extra}]"`.'
        ) from error
