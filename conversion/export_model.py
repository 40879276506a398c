"""Exports a model to the formats of the edge: LiteRT and ONNX, float32 and int8.

    python conversion/export_model.py digits calibration_images --output-dir exported

writes a file for each format and precision, prints its report, and goes on after one
that disagrees with the model, which is not written. It is `keras-sepvit export`, run
once for each; the arguments are the command's WEIGHTS and --calibration.
"""

import argparse
import pathlib
import subprocess
import sys

FILES = (
    ("litert", None, "float32.tflite"),
    ("litert", "float16", "float16.tflite"),
    ("litert", "int8", "int8.tflite"),
    ("onnx", None, "float32.onnx"),
    ("onnx", "int8", "int8.onnx"),
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", help=".keras, .weights.h5, or the name of registered weights")
    parser.add_argument("calibration", type=pathlib.Path, help="folder of 32 images or more")
    parser.add_argument("--labels", help="text file of the classes' names, one a line")
    parser.add_argument("--output-dir", type=pathlib.Path, default=pathlib.Path("exported"))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    stem = pathlib.Path(options.weights).name.removesuffix(".weights.h5").removesuffix(".keras")
    failed = 0
    for format, precision, ending in FILES:
        command = [sys.executable, "-m", "keras_sepvit", "export", options.weights]
        command += ["--format", format, "--calibration", str(options.calibration), "--overwrite"]
        command += ["--output", str(options.output_dir / f"{stem}_{ending}")]
        if precision:
            command += ["--quantize", precision]
        if options.labels:
            command += ["--labels", options.labels]
        failed += subprocess.run(command).returncode != 0
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()
