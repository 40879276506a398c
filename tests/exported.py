"""Small exported classifiers, made without `keras_sepvit.export`.

Each is a softmax over a dense layer, whose weights the seed decides: `probabilities`
tells what a file of the same arguments must give.
"""

import json
import warnings
import zipfile

import numpy as np

from keras_sepvit.record import Record

IMAGE_SHAPE = (8, 12, 3)
CLASSES = 5
NAMES = ["Ant", "bee", "cat", "dog", "eel \N{LATIN SMALL LETTER E WITH ACUTE}"]

RECORD = Record(
    task="classification",
    image_size=IMAGE_SHAPE[:2],
    channels=3,
    pixels="imagenet",
    crop=1.0,
    interpolation="bilinear",
    activation="softmax",
    class_names=tuple(NAMES),
    version="0.1.0",
)


def random_images(count, seed=0, image_shape=IMAGE_SHAPE):
    """uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, (count, *image_shape), dtype="uint8")


def kernel(image_shape=IMAGE_SHAPE, classes=CLASSES):
    """The dense layer's weights, for images of 0..255 and logits of about -4 to 4."""
    shape = (np.prod(image_shape), classes)
    weights = np.random.default_rng(1).normal(0, 1 / 48 / shape[0] ** 0.5, shape)
    return (weights - weights.mean(axis=0)).astype("float32")  # no class is likelier on average


def probabilities(images):
    logits = images.reshape(len(images), -1).astype("float64") @ kernel(images.shape[1:])
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def write_litert(path, batch_size=None, integers=None, dtype="float32", image_shape=IMAGE_SHAPE):
    """Writes a .tflite file.

    Args:
        path: Where to.
        batch_size: None for any.
        integers: `"int8"` or `"uint8"` for a model of integers, with images and
            probabilities of that type.
        dtype: Type of the images of a model that is not of integers.
        image_shape: Shape of the images.
    """
    import tensorflow as tf

    weights = tf.constant(kernel(image_shape))

    @tf.function(input_signature=[tf.TensorSpec((batch_size, *image_shape), dtype, name="image")])
    def classify(image):
        pixels = tf.reshape(tf.cast(image, tf.float32), (-1, np.prod(image_shape)))
        return tf.nn.softmax(pixels @ weights)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([classify.get_concrete_function()])
    if integers is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # Somewhat beyond the images, so that a step is not just one level of a pixel.
        converter.representative_dataset = lambda: (
            [image[None].astype("float32") * 1.2] for image in random_images(200, 9, image_shape)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.dtypes.as_dtype(integers)
        converter.inference_output_type = tf.dtypes.as_dtype(integers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs")  # the images give them
        path.write_bytes(converter.convert())
    return path


def pack_labels(path, names):
    """Adds class names to a .tflite file, as TFLite's metadata do."""
    pack(path, "labels.txt", "".join(f"{name}\n" for name in names))


def pack(path, name, text):
    """Adds a file to a .tflite file, as TFLite's metadata do."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, text)


def write_onnx(
    path,
    batch_size="batch",
    dtype="float32",
    image_shape=IMAGE_SHAPE,
    declared_shape=None,
    softmax=True,
    class_names=None,
    record=None,
    inputs=1,
):
    """Writes an .onnx file.

    Args:
        path: Where to.
        batch_size: A name for any.
        dtype: Type of the images; weights are of the same where it is a float.
        image_shape: Shape of the images.
        declared_shape: What the file says of it, if that is something else.
        softmax: Whether the outputs are probabilities, not logits.
        class_names: Value of the metadata of that name, for JSON.
        record: Text of the record in the metadata.
        inputs: Number of inputs, of which the first is used.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
    image_types = {**types, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
    computed = "float16" if dtype == "float16" else "float32"
    nodes = [
        helper.make_node("Cast", ["image0"], ["pixels"], to=types[computed]),
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "kernel"], ["logits"]),
        helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["classes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [
            helper.make_tensor_value_info(
                f"image{number}", image_types[dtype], (batch_size, *(declared_shape or image_shape))
            )
            for number in range(inputs)
        ],
        [helper.make_tensor_value_info("classes", types[computed], (batch_size, CLASSES))],
        [numpy_helper.from_array(kernel(image_shape).astype(computed), "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    metadata = {} if class_names is None else {"class_names": json.dumps(class_names)}
    if record is not None:
        metadata["keras_sepvit.json"] = record
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
