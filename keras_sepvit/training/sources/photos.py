"""Files of photos before they are trained on: their sizes, read in threads. Without TensorFlow."""

import concurrent.futures

import numpy as np
from PIL import Image

from keras_sepvit.runtime.images import orientation
from keras_sepvit.validation import counted


def upright_size(path):
    """(height, width) of a photo as `open_image` gives it, of a JPEG without reading the pixels.

    Raises:
        OSError: if it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            if image.format not in ("JPEG", "MPO"):
                image.load()  # a TIFF is upright now, a PNG has its metadata
            sides = image.size
            return sides if orientation(image) >= 5 else sides[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path} cannot be read as an image: {error}") from error


def upright_sizes(paths):
    """Sizes of photos, int32 (photos, 2), (0, 0) of those that cannot be read; their errors."""

    def read(path):
        try:
            return upright_size(path)
        except OSError as error:
            return error

    results = [*in_threads(read, paths)]
    unreadable = [result for result in results if isinstance(result, OSError)]
    sizes = [(0, 0) if isinstance(result, OSError) else result for result in results]
    return np.array(sizes, "int32").reshape(-1, 2), unreadable


def in_threads(function, values):
    """Generator of a function's results in the order of the values; none runs on once it closes."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            yield from pool.map(function, values)
        finally:
            pool.shutdown(cancel_futures=True)


def size_lines(sizes, unreadable):
    """Lines on the sizes of photos, and on those that cannot be read.

    Args:
        sizes: Pairs (height, width), at least one.
        unreadable: Errors.
    """
    low, high = min(sizes, key=np.prod), max(sizes, key=np.prod)
    smallest, largest = ("{} x {}".format(*size) for size in (low, high))
    yield f"photos of {smallest}" + (f" to {largest} pixels" if smallest != largest else " pixels")
    if unreadable:
        photos = counted(len(unreadable), "photo")
        yield f"left out, {photos} that cannot be read: {unreadable[0]}"
