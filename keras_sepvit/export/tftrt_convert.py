"""Converts a SavedModel with TF-TRT. It imports TensorFlow alone, and runs as a file.

    python conversion/tftrt.py --check
    python conversion/tftrt.py SAVED_MODEL OUTPUT --precision float16 --batch-sizes 1 8

The first says what TF-TRT misses here, and ends with 1 if that is anything. The second
writes a SavedModel whose signature `serving_default` takes `image`, as that of the first
does; TensorRT's engines in it are for this kind of GPU, and for batches of the given
sizes. TensorFlow 2.17 was the last with TensorRT, and is not installed beside this package.
"""

import argparse
import sys

LAST_VERSION = (2, 17)
PRECISIONS = {"float32": "FP32", "float16": "FP16", "int8": "INT8"}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("saved_model", nargs="?")
    parser.add_argument("output", nargs="?", help="folder to write")
    parser.add_argument("--check", action="store_true", help="only say what is missing")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--calibration", metavar="IMAGES.npy", help="images for int8")
    options = parser.parse_args()
    if not options.check and options.output is None:
        parser.error("name the SavedModel and the folder to write.")
    if (options.precision == "int8") != (options.calibration is not None):
        parser.error("--precision int8 and --calibration go together.")
    problem = what_is_missing(**platform())
    if problem:
        print(problem)
        return 1
    if not options.check:
        convert(
            *(options.saved_model, options.output),
            *(options.precision, options.batch_sizes, options.calibration),
        )
    return 0


def platform():
    """The arguments of `what_is_missing`, of this environment."""
    try:
        import tensorflow as tf
    except ImportError:
        return {"version": None}
    from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as tensorrt

    # Not the version of the library that is loaded: where there is none, asking for it
    # ends the process.
    return {
        "version": tf.__version__,
        "is_built": bool(tf.sysconfig.get_build_info().get("is_tensorrt_build")),
        "linked_version": tensorrt.get_linked_tensorrt_version(),
        "is_found": tensorrt.is_tensorrt_enabled(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
    }


def what_is_missing(version, is_built=False, linked_version=None, is_found=False, gpus=0):
    """What TF-TRT needs and has not got, first things first; None where it has all.

    Of TensorFlow: its version, None for no TensorFlow, whether it was built with TensorRT, the
    version of that, of three numbers, whether TensorRT's library can be loaded, and the
    number of GPUs.
    """
    last = ".".join(map(str, LAST_VERSION))
    if version is None:
        return f"There is no TensorFlow: install `tensorflow[and-cuda]=={last}.*`."
    if not is_built and tuple(map(int, version.split(".")[:2])) > LAST_VERSION:
        return (
            f"TensorFlow {version} has no TensorRT: {last} was the last release with it. Convert "
            f"in an environment with `tensorflow[and-cuda]=={last}.*`."
        )
    if not is_built:
        return (
            f"This build of TensorFlow {version} was made without TensorRT, as those for CPUs, "
            f"macOS and Windows are. Install `tensorflow[and-cuda]=={last}.*` on Linux."
        )
    if not is_found:
        linked = ".".join(map(str, linked_version))
        return (
            f"TensorFlow {version} was built with TensorRT {linked}, whose library "
            f"(libnvinfer.so.{linked_version[0]}) is not found. Install TensorRT {linked}, and put "
            "the folder of its libraries on LD_LIBRARY_PATH."
        )
    if not gpus:
        return (
            "TensorFlow finds no GPU: TF-TRT builds its engines on the kind of GPU that will run "
            "them."
        )
    return None


def convert(saved_model, output, precision, batch_sizes, calibration_path):
    """Writes the SavedModel with engines to `output`."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.compiler.tensorrt.trt_convert import TrtGraphConverterV2

    tf.config.experimental.enable_tensor_float_32_execution(False)  # in engines too
    signature = tf.saved_model.load(saved_model).signatures["serving_default"]
    image_shape = signature.structured_input_signature[1]["image"].shape[1:]

    def calibration():
        images, size = np.load(calibration_path), max(batch_sizes)
        for batch in np.resize(images, (-(-len(images) // size), size, *image_shape)):
            yield {"image": batch}

    def inputs():
        for size in batch_sizes:
            yield {"image": np.zeros((size, *image_shape), "float32")}

    # Engines of other sizes are built when such a batch comes: with
    # `allow_build_at_runtime=False`, TensorFlow 2.17 calls the outputs `output_0` and so on.
    converter = TrtGraphConverterV2(
        input_saved_model_dir=saved_model,
        # Windows become part of the batch, so that no engine can leave the batch implicit.
        use_dynamic_shape=True,
        dynamic_shape_profile_strategy="Optimal",
        precision_mode=PRECISIONS[precision],
        use_calibration=precision == "int8",
    )
    converter.convert(calibration_input_fn=calibration if precision == "int8" else None)
    converter.build(input_fn=inputs)
    converter.save(output_saved_model_dir=output)


if __name__ == "__main__":
    sys.exit(main())
