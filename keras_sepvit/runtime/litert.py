"""Runs .tflite files with LiteRT."""

import zipfile

import numpy as np

from keras_sepvit.record import RECORD_NAME, Record

# Where TFLite metadata keep files that belong to a model: in a zip archive behind it.
LABELS_MEMBER = "labels.txt"


class LiteRTModel:
    """A .tflite file, opened.

    Attributes:
        input_shapes: The shapes of its inputs, with None where any size will do.
        output_shapes: The shapes of its outputs, likewise.
        output_names: Their names.
        input_dtypes: The types of its inputs, such as `"float32"`.
        class_names: The names of the classes in the file, or None.
        record: The file's `Record`, or None.
    """

    def __init__(self, path, threads=None, delegates=()):
        try:
            from ai_edge_litert.interpreter import Interpreter, load_delegate
        except ImportError as error:
            raise ImportError(
                f"Running .tflite files needs LiteRT, which cannot be imported: {error}. Install "
                'it with `pip install "keras-sepvit[export]"`, or alone with '
                "`pip install ai-edge-litert`."
            ) from error
        _check_is_tflite(path)
        try:
            loaded = [load_delegate(str(library)) for library in delegates]
        except (ValueError, OSError) as error:
            raise ValueError(
                f"`delegates` cannot be loaded: {error}. Received: delegates={delegates!r}; each "
                "must be the path of a delegate's library."
            ) from error
        try:
            self._interpreter = Interpreter(
                model_path=str(path), num_threads=threads, experimental_delegates=loaded or None
            )
            self._interpreter.allocate_tensors()  # fails where an operator is not LiteRT's own
            self._inputs = self._interpreter.get_input_details()
            self._outputs = _named_outputs(self._interpreter)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be run as a TFLite model: {error}") from error
        self.input_shapes = [_shape(details) for details in self._inputs]
        self.output_shapes = [_shape(details) for details in self._outputs.values()]
        self.output_names = [*self._outputs]
        self.input_dtypes = [np.dtype(details["dtype"]).name for details in self._inputs]
        labels, record = (_packed_text(path, name) for name in (LABELS_MEMBER, RECORD_NAME))
        self.class_names = None if labels is None else labels.splitlines()
        self.record = None if record is None else Record.from_json(record, path)
        self._allocated_shape = None

    def outputs(self, images):
        """The outputs by name, float32, for images of the input's shape, float32.

        The integers that quantised files take and give are converted.
        """
        (image_input,) = self._inputs
        index = image_input["index"]
        if images.shape != self._allocated_shape:
            self._interpreter.resize_tensor_input(index, images.shape)
            self._interpreter.allocate_tensors()
            self._allocated_shape = images.shape
        self._interpreter.set_tensor(index, _quantized(images, image_input))
        self._interpreter.invoke()
        return {
            name: _dequantized(self._interpreter.get_tensor(details["index"]), details)
            for name, details in self._outputs.items()
        }

    def __call__(self, images):
        """The one output, as in `outputs`."""
        (output,) = self.outputs(images).values()
        return output


def _check_is_tflite(path):
    """The interpreter's own check of a file that is something else may end the process."""
    with open(path, "rb") as file:
        start = file.read(8)
    if start[4:] != b"TFL3":
        raise ValueError(
            f"{path} is not a TFLite model: expected 'TFL3' at its fifth byte. It starts with "
            f"{start!r}."
        )


def _named_outputs(interpreter):
    """Details of the outputs by the names of the file's signature, where it has one."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {details["name"]: details for details in interpreter.get_output_details()}
    return interpreter.get_signature_runner(next(iter(signatures))).get_output_details()


def _shape(details):
    """The shape of an input or output, with None where it is not fixed."""
    return tuple(None if size < 0 else int(size) for size in details["shape_signature"])


def _quantized(values, details):
    """Real numbers as a tensor's type; integers stand for (integer - zero point) * scale.

    A scale of 0 is that of integers that are not quantised.
    """
    dtype = details["dtype"]
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    scale, zero_point = details["quantization"]
    if scale:
        values = values / np.float32(scale) + zero_point
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def _dequantized(tensor, details):
    scale, zero_point = details["quantization"]
    if np.issubdtype(tensor.dtype, np.integer) and scale:
        return (tensor.astype("float32") - zero_point) * np.float32(scale)
    return tensor.astype("float32")


def _packed_text(path, name):
    """The text of a file packed into a .tflite file; None if there is none."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode("utf-8") if name in archive.namelist() else None
