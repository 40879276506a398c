"""Detections in the form of COCO's results. Without Keras."""

import numpy as np


def coco_results(found, image_id, category_ids=None):
    """A photo's detections as COCO's evaluation and others read them.

    Args:
        found: Dict of `"boxes"` (n, 4), (left, top, right, bottom) in the photo's pixels,
            `"labels"` (n,) and `"confidence"` (n,); optional `"masks"`, n compressed RLEs.
        image_id: The photo's id in its data.
        category_ids: The data's own ids of the classes, by label; by default the labels.

    Returns:
        A list of dicts of `image_id`, `category_id`, `bbox` (left, top, width, height) and
        `score`, and of `segmentation` where there are masks.
    """
    corners = np.asarray(found["boxes"], "float64").reshape(-1, 4)
    boxes = _plain(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1))
    labels = np.asarray(found["labels"]).tolist()
    rows = [
        {
            "image_id": image_id,
            "category_id": label if category_ids is None else category_ids[label],
            "bbox": box,
            "score": score,
        }
        for label, box, score in zip(labels, boxes, _plain(found["confidence"]), strict=True)
    ]
    if "masks" in found:
        for row, mask in zip(rows, found["masks"], strict=True):
            row["segmentation"] = mask
    return rows


def _plain(values):
    """float32 values with no more digits than tell them, as nested lists."""
    values = np.asarray(values, "float32")
    return np.array([float(str(value)) for value in values.ravel()]).reshape(values.shape).tolist()
