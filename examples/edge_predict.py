"""Classifies image files with an exported model, without Keras and without a backend.

    python examples/edge_predict.py digits.tflite seven.png

prints, for `SepViT(DIGITS_CONFIG, classes=10, weights="digits")` exported with the names 0 to
9, and the first seven of scikit-learn's `load_digits` resized to 32 x 32 (bilinear):

    seven.png
        91.41%  7
         1.20%  3
         1.11%  6

The device needs NumPy, Pillow, and `ai-edge-litert` for .tflite files or `onnxruntime` for
.onnx files. The names of the classes are those in the file, or the lines of `--labels`.
"""

import argparse

from keras_sepvit.runtime import Predictor


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .tflite or .onnx file")
    parser.add_argument("images", nargs="+", metavar="image", help="an image file")
    parser.add_argument("--labels", help="a text file with the classes' names, one a line")
    parser.add_argument("--threads", type=int, help="threads to use; the runtime's choice if unset")
    parser.add_argument("--top", type=int, default=3, help="how many classes to print")
    options = parser.parse_args(arguments)

    predictor = Predictor(options.model, threads=options.threads, labels=options.labels)
    for path in options.images:
        print(path)
        for prediction in predictor.top(path, k=options.top):
            print(f"  {prediction.probability:8.2%}  {prediction.label}")


if __name__ == "__main__":
    main()
