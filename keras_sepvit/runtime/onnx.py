"""Runs .onnx files with ONNX Runtime."""

import json

import numpy as np

from keras_sepvit.record import RECORD_NAME, Record

# The key of the class names, a JSON list, in a model's `metadata_props`.
CLASS_NAMES_KEY = "class_names"

CPU = ("CPUExecutionProvider",)

# NumPy's names of types; others keep ONNX Runtime's.
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class OnnxModel:
    """An .onnx file, opened; its attributes are those of `LiteRTModel`."""

    def __init__(self, path, threads=None, providers=CPU):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"Running .onnx files needs ONNX Runtime, which cannot be imported: {error}. "
                'Install it with `pip install "keras-sepvit[export]"`, or alone with '
                "`pip install onnxruntime`."
            ) from error
        _check_providers(providers, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, not how a graph is optimised
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=list(providers)
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise ValueError(f"{path} cannot be run as an ONNX model: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.input_shapes = [_shape(tensor) for tensor in inputs]
        self.output_shapes = [_shape(tensor) for tensor in outputs]
        self.input_dtypes = [_DTYPES.get(tensor.type, tensor.type) for tensor in inputs]
        self.output_names = [tensor.name for tensor in outputs]
        metadata = self._session.get_modelmeta().custom_metadata_map
        names, record = metadata.get(CLASS_NAMES_KEY), metadata.get(RECORD_NAME)
        self.class_names = None if names is None else _parsed_names(names, path)
        self.record = None if record is None else Record.from_json(record, path)

    def outputs(self, images):
        """The outputs by name, float32, for images of the input's shape, float32."""
        (image_input,), (dtype,) = self._session.get_inputs(), self.input_dtypes
        if dtype == "uint8":
            images = np.clip(np.rint(images), 0, 255)
        outputs = self._session.run(self.output_names, {image_input.name: images.astype(dtype)})
        return {
            name: output.astype("float32")
            for name, output in zip(self.output_names, outputs, strict=True)
        }

    def __call__(self, images):
        """The one output, as in `outputs`."""
        (output,) = self.outputs(images).values()
        return output


def _check_providers(providers, available):
    """Refuses what ONNX Runtime would leave out with a warning."""
    absent = [name for name in providers if name not in available]
    if absent or not providers:
        raise ValueError(
            f"`providers` must be of those of this ONNX Runtime: {', '.join(available)}. Received: "
            f"providers={tuple(providers)!r}."
        )


def _shape(tensor):
    """The shape of an input or output, with None where it is not fixed."""
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)


def _parsed_names(text, path):
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ValueError(
            f"{path} has metadata '{CLASS_NAMES_KEY}' that is no JSON list of names, but {text!r}."
        )
    return [str(name) for name in names]
