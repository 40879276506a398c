"""Runs .onnx files with ONNX Runtime."""

import json

import numpy as np

# The key of the class names, a JSON list, in a model's `metadata_props`.
CLASS_NAMES_KEY = "class_names"

# NumPy's names of types; others keep ONNX Runtime's.
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class OnnxModel:
    """An .onnx file, opened; its attributes are those of `LiteRTModel`."""

    def __init__(self, path, threads):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"Running .onnx files needs ONNX Runtime, which cannot be imported: {error}. "
                'Install it with `pip install "keras-sepvit[export]"`, or alone with '
                "`pip install onnxruntime`."
            ) from error
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise ValueError(f"{path} cannot be run as an ONNX model: {error}") from error
        inputs = self._session.get_inputs()
        self.input_shapes = [_shape(tensor) for tensor in inputs]
        self.output_shapes = [_shape(tensor) for tensor in self._session.get_outputs()]
        self.input_dtypes = [_DTYPES.get(tensor.type, tensor.type) for tensor in inputs]
        names = self._session.get_modelmeta().custom_metadata_map.get(CLASS_NAMES_KEY)
        self.class_names = None if names is None else _parsed_names(names, path)

    def __call__(self, images):
        """The output, float32, for images of the input's shape, float32 of 0..255."""
        (image_input,), (dtype,) = self._session.get_inputs(), self.input_dtypes
        if dtype == "uint8":
            images = np.clip(np.rint(images), 0, 255)
        (output,) = self._session.run(None, {image_input.name: images.astype(dtype)})
        return output.astype("float32")


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
