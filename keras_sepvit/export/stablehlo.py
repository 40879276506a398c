"""Exports models to serialised StableHLO by `jax.export`, which JAX runs on any device."""

import collections
import dataclasses
import os
import pathlib
import re
from typing import Unpack

import numpy as np

from keras_sepvit.export.check import median_latency_ms
from keras_sepvit.export.driver import Format, OpenFile, Options, export
from keras_sepvit.export.worker import convert_on
from keras_sepvit.lazy import require
from keras_sepvit.validation import check_choice

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_stablehlo(
    model, path, *, batch_size=1, platforms=("cpu", "cuda", "tpu"), **options: Unpack[Options]
):
    """Exports a model with `jax.export`, runs the file, and compares it with the model.

    Any backend will do; JAX must be installed. The file is what
    `jax.export.Exported.serialize` gives, with the weights inside. It needs no
    Keras:

    ```python
    import jax.export

    exported = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
    probabilities = jax.jit(exported.call)(images)["probabilities"]
    stablehlo = exported.mlir_module_serialized  # portable bytecode, for other compilers
    ```

    The format has no place for metadata: the record, with the names of classes, lies
    beside the file, as `model.stablehlo.keras_sepvit.json`.

    Args:
        model: A built Keras model of one image input.
        path: Path of the file, ending with `.stablehlo`.
        batch_size: Images in a batch; None for any number.
        platforms: Those that the file will run on, of `"cpu"`, `"cuda"`, `"rocm"`
            and `"tpu"`. For one alone the program is smaller: with several it
            chooses at each product. The comparison runs on JAX's default device.
        **options: See `keras_sepvit.export.Options`.

    Returns:
        An `ExportReport`. Errors are those of `keras_sepvit.export.driver.export`.
    """
    return export(StableHLO(batch_size=batch_size, platforms=platforms), model, path, **options)


@dataclasses.dataclass
class StableHLO(Format):
    """Serialised StableHLO of `jax.export`."""

    platforms: tuple = ()

    name = "stablehlo"
    suffix = ".stablehlo"
    has_place_for_record = False

    def __post_init__(self):
        super().__post_init__()
        if not self.platforms:
            raise ValueError(
                f"`platforms` must name at least one of {', '.join(map(repr, PLATFORMS))}."
            )
        for platform in self.platforms:
            check_choice("platforms", platform, PLATFORMS)

    def require(self):
        require("jax", "jax")

    def write(self, deployment, record, path):
        form = {"batch_size": self.batch_size, "platforms": self.platforms}
        self._operators = convert_on("jax", save_exported, deployment.model, path, **form)

    def open(self, path):
        import jax.export

        exported = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
        call = jax.jit(exported.call)
        return OpenFile(
            lambda batch: {name: np.asarray(x) for name, x in call(batch).items()}, self.batch_size
        )

    def facts(self, path, opened, deployment):
        example = np.zeros((self.batch_size or 2, *deployment.image_shape), "float32")
        latency = median_latency_ms(lambda: opened.run(example))
        return {"operators": self._operators, "latency_ms": {os.cpu_count(): latency}}


def save_exported(model, output, batch_size, platforms):
    """Writes a deployed model to a path, and counts its operators by name. Runs on JAX."""
    import jax.export

    def predict(image):
        return model(image, training=False)

    (batch,) = (batch_size,) if batch_size else jax.export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, *model.input_shape[1:]), "float32")
    exported = jax.export.export(jax.jit(predict), platforms=platforms)(image)
    pathlib.Path(output).write_bytes(exported.serialize())
    operators = re.findall(r"= \"?stablehlo\.(\w+)", exported.mlir_module())
    return dict(collections.Counter(operators).most_common())
