"""Lets Keras load files of this package's classes after `import keras_sepvit` alone.

A `.keras` file names classes, and Keras 3 finds those outside of its own packages
only in its registry, where a class enters when its module is imported. That
imports Keras, which `import keras_sepvit` does not. So the registry gets stand-ins,
which import the class when a file asks for it: at once if Keras is there, else at
the end of its import, by a finder on `sys.meta_path` that leaves when that is done.
(wrapt's post-import hook does the same, but its import takes 35 ms: this package's takes 5.)

The finder imports nothing itself. It may run in the middle of this package's own
`import keras`, in `keras_sepvit.layers` for instance, whose names other modules of the
package could not import yet, or beside another thread that holds their import locks.
"""

import importlib
import sys

# The module of each registered class.
REGISTERED = {
    "FanOutNormal": "initializers",
    "TruncatedNormal": "initializers",
    "DropPath": "layers",
    "MLP": "layers",
    "Normalization": "layers",
    "PatchEmbedding": "layers",
    "PEG": "layers",
    "SeparableAttention": "attention",
    "SepViTBlock": "block",
    "SepViTBackbone": "backbone",
    "SepViTClassifier": "classification.classifier",
    "FPN": "pyramid",
    "FPNHead": "segmentation.semantic_fpn",
    "SemanticFPN": "segmentation.semantic_fpn",
    "Detections": "detection.layers",
    "MediaPipeLayout": "detection.layers",
    "FCNHead": "segmentation.upernet",
    "UPerHead": "segmentation.upernet",
    "UPerNet": "segmentation.upernet",
    "ResizeTo": "segmentation.segmenter",
    "ClassMap": "segmentation.segmenter",
    "RetinaHead": "detection.heads",
    "RetinaNet": "detection.retinanet",
    "MaskRCNN": "detection.mask_rcnn",
    "Proposals": "detection.proposals",
    "RoIDetections": "detection.proposals",
    "DetectedMasks": "detection.proposals",
    "RoIAlign": "detection.rois",
    "RPNHead": "detection.roi_heads",
    "BoxHead": "detection.roi_heads",
    "MaskHead": "detection.roi_heads",
    "LayerwiseAdamW": "training.optimizer",
    "WarmupCosine": "training.schedule",
    "WarmupPolynomial": "training.schedule",
    "WarmupSteps": "training.schedule",
}


def register_with_keras():
    """Puts stand-ins into Keras's registry, now or as soon as Keras has been imported."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras(_register))


def _register():
    import keras  # waits for a thread that is just importing it

    keras.saving.get_custom_objects().update(
        {f"keras_sepvit>{name}": _stand_in(name, module) for name, module in REGISTERED.items()}
    )


def _stand_in(name, module):
    """A class of that name that Keras can do one thing with: make an object from its config.

    Importing the module puts the class itself into the registry. Both may be in use
    then, since Keras copies the registry while it reads a file.
    """

    def from_config(config):
        cls = getattr(importlib.import_module(f"keras_sepvit.{module}"), name)
        return cls.from_config(config)

    return type(name, (), {"from_config": staticmethod(from_config)})


class _AfterKeras:
    """A finder that finds nothing, but calls a function once Keras has been imported."""

    def __init__(self, function):
        self._function = function

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        spec = self._found_by_later_finders(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        # On this loader alone: it stays what it is for all that inspect or reload modules.
        loader, exec_module = spec.loader, spec.loader.exec_module

        def exec_module_then_function(module):
            vars(loader).pop("exec_module", None)
            exec_module(module)  # where it fails, the finder stays for the next attempt
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._function()

        loader.exec_module = exec_module_then_function
        return spec

    def _found_by_later_finders(self, fullname, path, target):
        """Only later ones, so that two finders of this kind do not ask each other for ever."""
        finders = iter([*sys.meta_path])
        for finder in finders:
            if finder is self:
                break
        for finder in finders:
            if hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None
