"""Converts a SavedModel with TF-TRT, in an environment of TensorFlow 2.17 alone; see --help.

`keras-sepvit export --format tftrt --python PATH` runs the same file.
"""

import pathlib
import runpy

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "keras_sepvit"

if __name__ == "__main__":
    runpy.run_path(str(PACKAGE / "export" / "tftrt_convert.py"), run_name="__main__")
