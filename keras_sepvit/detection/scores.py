"""COCO's average precision and recall of boxes, by faster-coco-eval. Without Keras."""

import numpy as np

# COCO's twelve numbers in the order of its evaluation.
BOX_SCORES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)


def box_scores(truths, detections):
    """COCO's scores of detections.

    Pictures and boxes are numbered here, whatever numbers they have elsewhere.

    Args:
        truths: A dict for each picture of `"boxes"` (n, 4), (left, top, right, bottom) in
            pixels, and `"labels"` (n,), ints from 0. Rows with labels below 0 are padding.
        detections: A dict for each picture, in the same order, of `"boxes"` and `"labels"`
            alike, and `"confidence"` (n,).

    Returns:
        Dict of the scores by name (`BOX_SCORES`), in percent; None where there is no
        object to find, such as none of that size.

    Raises:
        ValueError: if the numbers of pictures differ.
        ImportError: without faster-coco-eval.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(
            'COCO\'s scores need faster-coco-eval: pip install "keras-sepvit[detection]".'
        ) from error

    if len(truths) != len(detections):
        raise ValueError(
            "`truths` and `detections` must be of the same pictures. "
            f"Received: {len(truths)} truths, {len(detections)} detections."
        )
    annotations, results = _annotations(truths), _annotations(detections)
    labels = sorted({row["category_id"] for row in annotations + results})
    shared = {
        "images": [{"id": number} for number in range(len(truths))],
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }
    evaluation = COCOeval_faster(
        COCO({**shared, "annotations": annotations}),
        COCO({**shared, "annotations": results}),
        iouType="bbox",
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {
        name: None if value < 0 else 100 * float(value)
        for name, value in zip(BOX_SCORES, evaluation.stats, strict=False)
    }


def _annotations(pictures):
    """COCO's form of boxes: a dict for each, numbered from 1."""
    rows = []
    for number, picture in enumerate(pictures):
        labels = np.asarray(picture["labels"])
        boxes = np.asarray(picture["boxes"], "float64").reshape(-1, 4)
        for index in np.flatnonzero(labels >= 0):
            left, top, right, bottom = boxes[index]
            row = {
                "id": len(rows) + 1,
                "image_id": number,
                "category_id": int(labels[index]),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            if "confidence" in picture:
                row["score"] = float(picture["confidence"][index])
            rows.append(row)
    return rows
