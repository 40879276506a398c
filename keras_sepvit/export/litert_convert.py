"""Makes LiteRT files: TensorFlow's converter, and ai-edge-quantizer for static int8."""

import contextlib
import functools
import os
import pathlib
import re
import tempfile

import keras
import numpy as np
from keras import ops

from keras_sepvit import functional
from keras_sepvit.export.errors import ExportError
from keras_sepvit.export.images import batches
from keras_sepvit.export.quiet import quiet

SIGNATURE = "serving_default"


def convert(model, output, batch_size, precision="float32", calibration=None):
    """Converts a deployed model to a file with TensorFlow's converter. Runs on TensorFlow.

    The precisions are those of LiteRT but `"int8"`; `calibration` is, for `"full_int8"`, the
    `.npy` file of images. An error names operators that the converter does not know.
    """
    import tensorflow as tf

    def serve(image):
        with functional.forms_for("litert"), _integer_norms(model):
            return model(image, training=False)

    (image,) = model.inputs
    signature = tf.TensorSpec((batch_size, *image.shape[1:]), tf.float32, name="image")
    with tempfile.TemporaryDirectory(prefix="keras_sepvit_saved_model_") as folder:
        # From a SavedModel the converter reads weights as they are. With functions whose
        # variables were made constants before, it takes more than twice the memory.
        # The model is not `track`ed: Keras would look for tables in it, and trace what it finds,
        # for as long as all the rest takes. What `serve` reads is saved in any case.
        archive = keras.export.ExportArchive()
        archive.add_endpoint("serve", serve, input_signature=[signature])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "full_int8":
            images = np.load(calibration)
            converter.representative_dataset = lambda: (
                {"image": batch} for batch, _ in batches(images, batch_size or 1)
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.uint8
        try:
            with quiet(streams=True):
                content = converter.convert()
        except Exception as error:  # of several kinds, all from the converter's C++ code
            raise ExportError(_conversion_failure(error)) from error
    pathlib.Path(output).write_bytes(content)


@contextlib.contextmanager
def _integer_norms(model):
    """Gives a model's layer norms the form `(x - mean) / deviation * gamma + beta` inside.

    Keras's form on TensorFlow has a negation, which LiteRT computes in float alone,
    and two operators more.
    """
    norms = [
        layer
        for layer in model._flatten_layers()
        if type(layer) is keras.layers.LayerNormalization
        and layer.axis == [-1]
        and layer.gamma is not None
        and layer.beta is not None
    ]
    for norm in norms:
        norm.call = functools.partial(_layer_norm, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.call


def _layer_norm(norm, x):
    centered = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(centered * centered, axis=-1, keepdims=True)
    return centered * ops.rsqrt(variance + norm.epsilon) * norm.gamma + norm.beta


def quantize_static(source, destination, images, batch_size):
    """Quantises the dense layers and convolutions of a float32 file, weights and activations.

    All else stays in float32: attention's products and norms take little time, and
    so the whole graph stays one XNNPACK partition.
    """
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    recipe = recipe_manager.RecipeManager()
    for operation in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
        recipe.add_static_config(
            regex=".*",
            operation_name=qtyping.TFLOperationName[operation],
            activation_num_bits=8,
            weight_num_bits=8,
        )
    samples = [{"image": batch} for batch, _ in batches(images, batch_size or 1)]
    with quiet(streams=True):
        # Ranges over all images: the quantiser's own calibration takes moving averages of
        # each image's, which later images exceed by far.
        ranges = calibrator.Calibrator(
            str(source), num_threads=os.cpu_count() or 1, qsv_update_func=qsv_utils.min_max_update
        )
        ranges.calibrate({SIGNATURE: samples}, recipe)
        tool = quantizer.Quantizer(str(source), recipe.get_quantization_recipe())
        content = tool.quantize(ranges.get_model_qsvs()).quantized_model
    pathlib.Path(destination).write_bytes(content)


def _conversion_failure(error):
    text = str(error)
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)))
    if missing:
        return (
            f"LiteRT has no builtin operators for {', '.join(missing)} of this model. Files that "
            "need TensorFlow's own ('Flex') operators are not written, since they run on few "
            "devices."
        )
    return f"TensorFlow's converter failed: {text.strip()[-1000:]}"
