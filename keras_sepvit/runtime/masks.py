"""Masks of objects: from their boxes into the photo, and in COCO's compressed form."""

import numpy as np

from keras_sepvit.lazy import require


def paste(mask, box, size):
    """The pixels of a photo that an object covers, as mmdetection pastes masks.

    The mask is interpolated bilinearly at the centres of the pixels (`align_corners=False`), with
    zeros outside; what reaches 0.5 is covered. Only the box's part of the photo is looked at.

    Args:
        mask: (rows, columns), float of 0..1: the mask over the whole of the box.
        box: (left, top, right, bottom) in pixels of the photo; it may reach out of it.
        size: (height, width) of the photo.

    Returns:
        (height, width), bool. A box without area or that is not finite covers nothing.
    """
    pasted = np.zeros(size, "bool")
    box = np.asarray(box, "float64")
    if not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
        return pasted
    mask = np.asarray(mask, "float32")
    rows, down = _shares(box[1], box[3], size[0], mask.shape[0])
    columns, across = _shares(box[0], box[2], size[1], mask.shape[1])
    pasted[rows, columns] = down @ mask @ across.T >= 0.5
    return pasted


def paste_all(masks, boxes, size):
    """`paste` of n objects: (n, rows, columns) and (n, 4) to (n, height, width), bool."""
    pasted = np.zeros((len(boxes), *size), "bool")
    for number, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        pasted[number] = paste(mask, box, size)
    return pasted


def _shares(start, end, side, places):
    """The pixels from `start` to `end`, a slice, and the share of each place of a mask in each.

    Args:
        start, end: Of a box, in pixels.
        side: Of the photo.
        places: Number of places of the mask along this side.
    """
    # Pixels whose centres are in the box. Others are less than half covered by any mask.
    first, last = np.clip(np.ceil([start - 0.5, np.nextafter(end - 0.5, np.inf)]), 0, side)
    pixels = slice(int(first), int(last))
    centres = np.arange(pixels.start, pixels.stop) + 0.5
    at = (centres - start) / (end - start) * places - 0.5
    shares = 1 - np.abs(at[:, np.newaxis] - np.arange(places))
    return pixels, np.maximum(shares, 0).astype("float32")


def encode(mask):
    """A mask (height, width), bool, in COCO's form of run lengths.

    Returns:
        Dict of `"size"`, [height, width], and `"counts"`, a str: what JSON files of results hold.

    Raises:
        ImportError: without faster-coco-eval (the extra `detection`).
    """
    (encoded,) = coco_masks().encode(np.asfortranarray(mask, "uint8")[..., np.newaxis])
    return as_text(encoded)


def decode(encoded):
    """The mask (height, width), bool, that `encode` gave, or another of COCO's tools.

    Raises:
        ValueError: if its counts do not fill its size.
        ImportError: without faster-coco-eval (the extra `detection`).
    """
    # Ten times as fast as that library's own decoding.
    counts = coco_masks().toUncompressedRLE([encoded])[0]["counts"]
    height, width = encoded["size"]
    if sum(counts) != height * width:
        raise ValueError(
            f"Run lengths of a mask must add up to its {height} x {width} pixels. Received: "
            f"lengths of {sum(counts):,} in all."
        )
    covered = np.arange(len(counts)) % 2 == 1
    return np.repeat(covered, counts).reshape(width, height).T


def as_text(encoded):
    """COCO's form with its size as ints and its counts as a str, as JSON has them."""
    return {"size": [*map(int, encoded["size"])], "counts": encoded["counts"].decode("ascii")}


def coco_masks():
    """faster-coco-eval's functions of masks; ImportError without it."""
    return require("faster_coco_eval.mask_api_new_cpp", "detection", "COCO's form of masks")
