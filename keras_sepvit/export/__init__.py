"""Exports models to other runtimes: one function a format.

Each function converts a float32 copy of a model, runs the file in the format's own
runtime, compares it with the model, and returns an `ExportReport`. Packages that a
format needs are imported when its function runs; the extra `export` installs them.
"""

from keras_sepvit.lazy import lazy_names

# Public names by the module that holds them, which is imported when one is first used.
_MODULES = {
    "ExportError": "errors",
    "ExportReport": "report",
    "Options": "driver",
    "default_images": "images",
    "to_litert": "litert",
    "to_onnx": "onnx",
    "to_saved_model": "saved_model",
    "to_stablehlo": "stablehlo",
    "to_tensorrt": "tensorrt",
    "to_tftrt": "tftrt",
    "to_torch": "torch_export",
}

# The export functions by the name of their format.
FORMATS = {
    "litert": "to_litert",
    "onnx": "to_onnx",
    "saved_model": "to_saved_model",
    "stablehlo": "to_stablehlo",
    "torch": "to_torch",
    "tftrt": "to_tftrt",
    "tensorrt": "to_tensorrt",
}

__all__ = ["FORMATS", *_MODULES]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
