"""Converts weights between the authors' PyTorch code and Keras.

    python conversion/convert_official.py SepViT_Base.pth sepvit_b.weights.h5
    python conversion/convert_official.py SepViT_Base.pth sepvit_b.keras
    python conversion/convert_official.py sepvit_b.weights.h5 SepViT_Base.pth

The kinds of the files follow from their names, the variant from the shapes in
the file. Prints what became of each weight; or why the file cannot be converted,
and then exits with 2.
"""

import argparse
import sys

from keras_sepvit.conversion import convert


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=".pth, .pt, .bin, .safetensors, .weights.h5 or .keras")
    parser.add_argument("destination", help="the same; an existing file is replaced")
    parser.add_argument("--variant", help="sepvit_lite, sepvit_t, sepvit_s or sepvit_b")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="image size of the new model",
    )
    parser.add_argument("--classes", type=int, help="classes of the new model")
    parser.add_argument(
        "--dense", action="store_true", default=None, help="write the dense form in any case"
    )
    parser.add_argument("--partial", action="store_true", help="convert what fits, leave the rest")
    args = parser.parse_args()
    try:
        report = convert(
            args.source,
            args.destination,
            variant=args.variant,
            image_size=args.image_size,
            classes=args.classes,
            dense=args.dense,
            partial=args.partial,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(report)


if __name__ == "__main__":
    main()
