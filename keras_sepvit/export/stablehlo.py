"""Exports models to serialised StableHLO by `jax.export`, which JAX runs on any device."""

import collections
import os
import pathlib
import re

import numpy as np

from keras_sepvit.export.check import compare, median_latency_ms, size_of, writing
from keras_sepvit.export.errors import require
from keras_sepvit.export.model import prepare
from keras_sepvit.export.report import ExportReport
from keras_sepvit.export.worker import convert_on
from keras_sepvit.validation import check_choice, positive_int

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_stablehlo(
    model,
    path,
    *,
    batch_size=1,
    platforms=("cpu", "cuda", "tpu"),
    probabilities=True,
    normalize=False,
    class_names=None,
    images=None,
    check=True,
    overwrite=False,
    verbose=True,
):
    """Exports a model with `jax.export`, runs the file, and compares it with the model.

    Any backend will do; JAX must be installed. The file is what
    `jax.export.Exported.serialize` gives, with the weights inside. It needs no
    Keras:

    ```python
    exported = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
    probabilities = jax.jit(exported.call)(images)["probabilities"]
    stablehlo = exported.mlir_module_serialized  # portable bytecode, for other compilers
    ```

    Args:
        model: A built Keras model of one image input of static size.
        path: Path of the file, ending with `.stablehlo`.
        batch_size: Images in a batch; None for any number.
        platforms: Those that the file will run on, of `"cpu"`, `"cuda"`, `"rocm"`
            and `"tpu"`. For one alone the program is smaller: with several it
            chooses at each product. The comparison runs on JAX's default device.
        probabilities: Give a classifier whose head has no activation a softmax.
        normalize: Put ImageNet's normalisation in front of a model that takes
            normalised images; the file then takes images of 0..255.
        class_names: Names of the classes; refused, since the format has no place
            for them.
        images: Images to compare on, of shape (count, height, width, channels) as
            the file takes them; some synthetic ones by default.
        check: True for an error where the outputs differ by more than 1e-4,
            `"warn"` for a warning, False for no comparison.
        overwrite: Replace an existing file.
        verbose: Print the report.

    Returns:
        An `ExportReport`.

    Raises:
        ImportError: if JAX is not installed.
        ExportError: if the conversion fails or the file disagrees with the model.
        FileExistsError: if there is a file at `path`, unless `overwrite`.
        TypeError: if `model` is no Keras model.
        ValueError: for an argument out of range, or a model that cannot be exported.
    """
    batch_size = None if batch_size is None else positive_int("batch_size", batch_size)
    if class_names is not None:
        raise ValueError(
            "`class_names` have no place in a StableHLO file. Leave them out, and keep them beside "
            "the file."
        )
    if not platforms:
        raise ValueError(
            f"`platforms` must name at least one of {', '.join(map(repr, PLATFORMS))}."
        )
    for platform in platforms:
        check_choice("platforms", platform, PLATFORMS)
    jax = require("jax", extra="jax")
    deployment = prepare(model, probabilities=probabilities, normalize=normalize)
    with writing(path, overwrite, suffix=".stablehlo") as temporary:
        operators = convert_on(
            "jax",
            save_exported,
            deployment.model,
            temporary,
            batch_size=batch_size,
            platforms=platforms,
        )
        exported = jax.export.deserialize(bytearray(pathlib.Path(temporary).read_bytes()))
        call = jax.jit(exported.call)

        def run(batch):
            return {name: np.asarray(output) for name, output in call(batch).items()}

        agreement = compare(run, deployment, images, "float32", check, batch_size)
        example = np.zeros((batch_size or 2, *deployment.image_shape), "float32")
        latency = median_latency_ms(lambda: run(example))
        size = size_of(temporary)
    report = ExportReport(
        format="stablehlo",
        path=str(path),
        precision="float32",
        size_bytes=size,
        operators=operators,
        latency_ms={os.cpu_count(): latency},
        **agreement.report_fields(),
    )
    if verbose:
        print(report)
    return report


def save_exported(model, output, batch_size, platforms):
    """Writes a model as serialised StableHLO. Runs on the JAX backend.

    Args:
        model: A deployed model, which returns a dict.
        output: Path to write to.
        batch_size: Images in a batch; None for any number.
        platforms: Those to lower for.

    Returns:
        How often the program has each operator, by name.
    """
    import jax

    def predict(image):
        return model(image, training=False)

    (batch,) = (batch_size,) if batch_size else jax.export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, *model.input_shape[1:]), "float32")
    exported = jax.export.export(jax.jit(predict), platforms=platforms)(image)
    pathlib.Path(output).write_bytes(exported.serialize())
    operators = re.findall(r"= \"?stablehlo\.(\w+)", exported.mlir_module())
    return dict(collections.Counter(operators).most_common())
