"""Packages whose names are imported at their first use."""

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
