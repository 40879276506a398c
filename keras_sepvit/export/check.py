"""Writes an exported file only where its outputs agree with the Keras model's.

Imports no Keras: processes that run exported files without it time them with this.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import time

import numpy as np

from keras_sepvit.export.errors import ExportError
from keras_sepvit.files import replacing
from keras_sepvit.warn import warn

# Probabilities below this count as equal to it where logits are compared: half
# precision cannot hold much smaller ones, and no user tells them apart.
LOWEST_PROBABILITY = 1e-4

CHECKS = (True, "warn", False)


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far a file's outputs may be from the Keras model's.

    Attributes:
        max_error: Largest absolute error, for outputs of the magnitude of 1; in
            proportion for larger ones. None for any.
        relative_error: Largest relative error. None for any.
    """

    max_error: float | None = None
    relative_error: float | None = None


# By precision. Those of integers tell a file that computes something else from one
# that is rounded: what rounding costs depends on the model, and the report says it.
TOLERANCES = {
    "float32": Tolerance(max_error=1e-4),
    "float16": Tolerance(relative_error=1e-2),
    "dynamic_int8": Tolerance(relative_error=0.25),
    "tf32": Tolerance(relative_error=1e-2),
    "int8": Tolerance(relative_error=0.25),
    "int8_float16": Tolerance(relative_error=0.25),
    "full_int8": Tolerance(relative_error=0.5),
}


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How a file's outputs compare with the Keras model's.

    The attributes are those of the same name of `ExportReport`, and one more:
        magnitude: Largest absolute value of what Keras gives, 1 at least.
    """

    max_error: float | None = None
    relative_error: float | None = None
    compared: str | None = None
    top1_agreement: float | None = None
    images: int = 0
    magnitude: float = 1.0

    def report_fields(self):
        """The attributes as arguments of `ExportReport`."""
        fields = dataclasses.asdict(self)
        del fields["magnitude"]
        return fields


def share_in_words(compared):
    """What `top1_agreement` is, where that is `compared`."""
    return "found again" if compared == "detections" else "top-1 agreement"


def check_mode(check):
    """Refuses another way to check than `CHECKS`."""
    if check not in CHECKS:
        raise ValueError(f"`check` must be True, 'warn' or False. Received: check={check!r}.")


def compare(found, deployment, images, precision, check=True):
    """Compares an exported file with the Keras model, and refuses it where they disagree.

    The probabilities of a softmax are compared as the logits that they stand for
    (their logarithms less the mean over classes, probabilities below 1e-4 counted
    as 1e-4): over many classes probabilities are small numbers, and would agree
    within any tolerance. With full-integer files, whose probabilities are
    multiples of 1/256, the probabilities themselves are compared. Of class maps, see
    `measure_class_maps`; of detections, `check_detections.measure_detections`.

    Args:
        found: The file's outputs for `images`, arrays by name.
        deployment: The `Deployment` that was converted.
        images: Array of images as the file takes them.
        precision: A key of `TOLERANCES`.
        check: True for an error beyond the tolerance, `"warn"` for a warning,
            False for no comparison at all.

    Returns:
        An `Agreement`.

    Raises:
        ExportError: if the outputs differ beyond the tolerance, in number, name or
            shape, or are not finite.
    """
    if not check:
        return Agreement()
    expected = deployment.predict(images)
    agreement = deployment.measure(expected, found, precision)
    excess = _excess(agreement, deployment.tolerances[precision])
    if excess:
        top1 = agreement.top1_agreement
        message = (
            f"The exported {precision} model disagrees with the Keras model: {excess} of "
            f"{agreement.compared}, on {len(images)} images"
            + ("." if top1 is None else f" ({share_in_words(agreement.compared)} {top1:.2%}).")
        )
        if check is True:
            raise ExportError(f"{message} No file was left. To keep it, pass check='warn'.")
        warn(message)
    return agreement


def measure_agreement(expected, found, deployment, precision):
    """The `Agreement` of two dicts of outputs by name, the first the Keras model's."""
    check_outputs(expected, found)
    max_error, squared_error, squared_norm = 0.0, 0.0, 0.0
    as_logits = deployment.is_softmax and precision != "full_int8"
    for name, reference in expected.items():
        output = found[name]
        if as_logits:
            output, reference = _logits(output), _logits(reference)
        difference = output.astype("float64") - reference
        max_error = max(max_error, np.abs(difference).max())
        squared_error += np.square(difference).sum()
        squared_norm += np.square(reference.astype("float64")).sum()
    top1_agreement = None
    if deployment.activation is not None and len(expected) == 1:
        ((reference, output),) = ((expected[name], found[name]) for name in expected)
        top1_agreement = float(np.mean(reference.argmax(axis=-1) == output.argmax(axis=-1)))
    compared = {None: "features", "linear": "logits"}.get(deployment.activation, "probabilities")
    return Agreement(
        max_error=float(max_error),
        relative_error=float(np.sqrt(squared_error / max(squared_norm, 1e-12))),
        compared="logits" if as_logits else compared,
        top1_agreement=top1_agreement,
        images=len(reference),
        magnitude=max(1.0, *(float(np.abs(output).max()) for output in expected.values())),
    )


def measure_class_maps(class_maps, leads, found):
    """The `Agreement` of class maps, by how sure Keras is where the file's are others.

    A pixel's lead is by how much its highest logit exceeds the next. Where the file has another
    class, its logits are off by half of Keras's lead at least: so little counts as their error,
    and half of all leads as what they are relative to. Pixels of nearly no lead, which rounding
    decides, count for next to nothing, and so does no rare class for less than it is seen.

    Args:
        class_maps: Keras's, ints (count, height, width).
        leads: Float32 (count, height, width), of its logits.
        found: The file's outputs by name.
    """
    check_outputs({"class_map": class_maps}, found)
    differs = found["class_map"] != class_maps
    errors = np.where(differs, leads, 0).astype("float64") / 2
    squared_norm = np.square(leads.astype("float64") / 2).sum()
    return Agreement(
        max_error=float(errors.max()),
        relative_error=float(np.sqrt(np.square(errors).sum() / max(squared_norm, 1e-12))),
        compared="class maps",
        top1_agreement=float(1 - differs.mean()),
        images=len(class_maps),
        magnitude=max(1.0, float(leads.max())),
    )


def check_outputs(expected, found):
    """Refuses outputs of other names or shapes than Keras's, and those that are not finite."""
    if expected.keys() != found.keys():
        raise ExportError(
            f"The exported model has the outputs {sorted(found)}. Expected: {sorted(expected)}."
        )
    for name, reference in expected.items():
        output = found[name]
        if output.shape != reference.shape:
            raise ExportError(
                f"The exported model's output '{name}' has the shape {output.shape}. "
                f"Expected: {reference.shape}."
            )
        if not np.isfinite(output).all():
            raise ExportError(
                f"The exported model's output '{name}' has values that are not finite."
            )


def _logits(probabilities):
    logits = np.log(np.maximum(probabilities, LOWEST_PROBABILITY))
    return logits - logits.mean(axis=-1, keepdims=True)


def _excess(agreement, tolerance):
    """In words, by how much an agreement is beyond a tolerance; None if it is not."""
    if tolerance.max_error is not None:
        limit = tolerance.max_error * agreement.magnitude
        if agreement.max_error > limit:
            return f"largest error {agreement.max_error:.3g}, where {limit:.3g} is allowed"
    limit = tolerance.relative_error
    if limit is not None and agreement.relative_error > limit:
        return f"relative error {agreement.relative_error:.3g}, where {limit:g} is allowed"
    return None


@contextlib.contextmanager
def writing(path, overwrite=False, suffix=None, folder=False):
    """A temporary path to write to, which takes the place of `path` when all went well.

    It is made before any work is done, so that a place that cannot be written to is
    refused at once. If the body fails or is interrupted, it is removed and `path`
    stays as it was.

    Args:
        path: Where the export belongs.
        overwrite: Whether to replace what is there.
        suffix: The ending that the name must have, such as `".tflite"`; None for any.
        folder: Whether the export is a folder instead of a file.

    Yields:
        The temporary path: an empty file or folder of the same suffix, beside `path`.

    Raises:
        FileExistsError: if there is something at `path`, unless `overwrite`.
        ValueError: for a name with another ending, a folder that does not exist or
            cannot be written to, and a file where a folder belongs or the reverse.
    """
    path = pathlib.Path(path)
    if suffix is not None and path.suffix != suffix:
        raise ValueError(f"`path` must end with '{suffix}'. Received: '{path}'.")
    if path.exists():
        if path.is_dir() != folder:
            kind = "a folder" if path.is_dir() else "a file"
            raise ValueError(f"Cannot write '{path}': there is {kind} of this name.")
        if not overwrite:
            raise FileExistsError(
                f"'{path}' exists. Pass overwrite=True to replace it, or choose another name."
            )
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(replacing(path, folder))
        except OSError as error:
            raise ValueError(
                f"Cannot write '{path}': {error.strerror}. Choose a folder that you can write to."
            ) from error
        yield temporary


def size_of(path):
    """Bytes of a file, or of all files in a folder."""
    path = pathlib.Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def median_latency_ms(function, seconds=0.5, runs=20):
    """Median milliseconds of a call, after two to warm up.

    Args:
        function: Called without arguments; returns when its work is done.
        seconds: Time after which no further call is begun.
        runs: Most calls to time.
    """
    for _ in range(2):
        function()
    times = []
    end = time.perf_counter() + seconds
    while not times or (len(times) < runs and time.perf_counter() < end):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
