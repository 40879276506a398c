"""Writes the digits weights that the package ships, in float16, from the quick start's model.

    python examples/quickstart.py
    python conversion/make_digits_weights.py

Prints the checksum, which belongs in keras_sepvit/weights/registry.py. What the weights are and how
well they do: docs/digits_model_card.md.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import h5py

from keras_sepvit.configs import DIGITS_CONFIG
from keras_sepvit.conversion import convert
from keras_sepvit.files import replacing

PACKAGED = Path(__file__).parents[1] / "keras_sepvit" / "data" / "digits.weights.h5"


def copy_as_float16(source, target):
    """Copies an HDF5 group, whose data are all floating, into another."""
    target.attrs.update(source.attrs)
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            copy_as_float16(item, target.create_group(name))
        else:
            # By NumPy: HDF5 1.14 halves some values that round up to a power of two.
            target.create_dataset(name, data=item[()].astype("float16"))


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("outputs/quickstart/digits.keras"))
    parser.add_argument("--output", type=Path, default=PACKAGED)
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.weights.h5")
        print(convert(options.model, path, variant=DIGITS_CONFIG))
        # In HDF5's newer layout, whose groups take a fraction of the space.
        with (
            replacing(options.output) as temporary,
            h5py.File(path, "r") as source,
            h5py.File(temporary, "w", libver="latest") as target,
        ):
            copy_as_float16(source, target)
    content = options.output.read_bytes()
    print(f"Wrote {options.output} ({len(content):,} bytes)")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
