"""From scored boxes to detections: non-maximum suppression in `keras.ops`, with static shapes."""

from keras import ops

from keras_sepvit import functional, selection
from keras_sepvit.detection.boxes import clip, decode, intersection_over_union

# Boxes of a picture that are settled at once: memory grows with the square, not the boxes' number.
_TILE = 256


def retinanet_detections(
    outputs,
    anchors,
    image_size,
    sizes=None,
    score_threshold=0.05,
    iou_threshold=0.5,
    max_detections=100,
    candidates=1000,
):
    """Detections from the maps of a RetinaNet, as mmdetection 2.28 makes them.

    Of each level the best pairs of an anchor and a class are looked at; boxes are clipped to the
    picture; within a class, those that overlap a better one go. Of equal scores the lower (level,
    row, column, anchor, class) goes first, on each backend. All of it is float32.

    Args:
        outputs: Dict of `"classes"`, logits (batch, height, width, anchors * classes) of each
            level, and `"boxes"`, deltas (batch, height, width, anchors * 4).
        anchors: The `Anchors` of the levels.
        image_size: (height, width) of the images in pixels, numbers or tensors.
        sizes: int (batch, 2): (height, width) of the pictures on them, which boxes are clipped
            to; by default `image_size`.
        score_threshold: Pairs with a score above it count.
        iou_threshold: A box goes if a better one of its class, itself not gone, overlaps it by
            more than this intersection over union.
        max_detections: Detections of a picture.
        candidates: Pairs of a level that are looked at.

    Returns:
        Dict of `"boxes"` (batch, max_detections, 4), (left, top, right, bottom) in pixels,
        float32, the best first; `"labels"`, int32, and `"confidence"`, float32, (batch,
        max_detections); -1 in all behind the last; `"num_detections"` (batch,), int32.
    """
    boxes, scores, labels = retinanet_candidates(outputs, anchors, image_size, sizes, candidates)
    valid = ops.greater(scores, score_threshold)
    kept = suppress(boxes, labels, valid, iou_threshold, max_detections)
    return detections(kept, boxes, scores, labels)


def retinanet_candidates(outputs, anchors, image_size, sizes=None, candidates=1000):
    """The boxes that `retinanet_detections` chooses from, whatever their score, the best first.

    Args:
        outputs, anchors, image_size, sizes, candidates: As there.

    Returns:
        Boxes (batch, n, 4), float32; their scores, float32, and labels, int32, (batch, n).
    """
    levels = level_candidates(outputs, anchors, image_size, sizes, candidates)
    boxes, logits, labels = in_order(levels)
    return boxes, ops.sigmoid(logits), labels


def level_candidates(outputs, anchors, image_size, sizes=None, candidates=1000):
    """The boxes of `retinanet_candidates` by level, not yet in order.

    Args:
        outputs, anchors, image_size, sizes, candidates: As there.

    Returns:
        Of each level boxes (batch, n, 4), float32; their logits, float32, and labels, int32,
        (batch, n).
    """
    if sizes is None:
        sizes = ops.expand_dims(ops.stack([image_size[0], image_size[1]]), 0)
    classes, deltas = (
        [ops.cast(level, "float32") for level in outputs[name]] for name in ("classes", "boxes")
    )
    places = anchors.boxes([ops.shape(level)[1:3] for level in classes])
    levels = []
    for logits, x, own in zip(classes, deltas, places, strict=True):
        count = ops.shape(own)[0]
        boxes = clip(decode(own, ops.reshape(x, (-1, count, 4))), sizes)
        logits = ops.reshape(logits, (-1, count, logits.shape[-1] // anchors.per_place))
        levels.append(_best_pairs(logits, boxes, candidates))
    return levels


def in_order(levels):
    """Boxes, logits and labels of all levels, the best first.

    By logits: rounding makes equal scores of unequal ones, in another way on each backend.
    """
    boxes, logits, labels = (ops.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
    logits, order = selection.top_k(logits, logits.shape[1])
    return rows_of(boxes, order), logits, ops.cast(rows_of(labels, order), "int32")


def _best_pairs(classes, boxes, candidates):
    """The best pairs of a level: boxes (batch, n, 4), logits and labels (batch, n).

    The best pairs are of anchors among as many whose best class is best, which spares sorting
    all pairs.

    Args:
        classes: Logits (batch, anchors, classes).
        boxes: (batch, anchors, 4).
        candidates: As for `retinanet_candidates`.
    """
    _, count, num_classes = classes.shape
    last = ops.shape(boxes)[1] - 1
    if count is None:  # of a graph for any size, where there may be fewer
        count = candidates
        classes = ops.pad(classes, ((0, 0), (0, count), (0, 0)), constant_values=-float("inf"))
    count = min(count, candidates)
    _, rows = selection.top_k(ops.max(classes, axis=-1), count)
    rows = ops.sort(rows, axis=-1)
    logits = ops.reshape(rows_of(classes, rows), (-1, count * num_classes))
    logits, pairs = selection.top_k(logits, min(count * num_classes, candidates))
    rows = ops.minimum(rows_of(rows, pairs // num_classes), last)
    return rows_of(boxes, rows), logits, pairs % num_classes


def class_wise_detections(
    boxes, scores, *, score_threshold, iou_threshold, max_detections, candidates
):
    """The best boxes of each class, after greedy non-maximum suppression within the class.

    Equal to suppression class by class, one box after the other. Where scores are
    equal, the lower (box, class) index goes first.

    Args:
        boxes: (batch, boxes, 4), float: (left, top, right, bottom), for all classes.
        scores: (batch, boxes, classes), float.
        score_threshold: Pairs of a box and a class count if their score is above it.
        iou_threshold: A pair goes if a better one of its class, itself not gone,
            overlaps it by more than this intersection over union.
        max_detections: Detections of an image.
        candidates: Of all pairs of an image only so many, the best, are looked at.

    Returns:
        Boxes (batch, max_detections, 4), scores and labels (batch, max_detections), the
        best first, with -1 behind the last detection; and their number (batch,). Labels
        and numbers are int32.
    """
    _, count, classes = ops.shape(scores)
    pairs = ops.reshape(scores, (-1, count * classes))
    scores, pairs = selection.top_k(pairs, min(candidates, count * classes))
    labels = ops.cast(pairs % classes, "int32")
    boxes = rows_of(boxes, pairs // classes)
    valid = ops.greater(scores, score_threshold)
    kept = suppress(boxes, labels, valid, iou_threshold, max_detections)
    found = detections(kept, boxes, scores, labels)
    return tuple(found[name] for name in ("boxes", "confidence", "labels", "num_detections"))


def suppress(boxes, groups, valid, iou_threshold, count):
    """Which boxes of each picture greedy suppression keeps, up to a number.

    Equal to the usual loop: one box after the other, a box stays if no better one of its group
    that stays overlaps it by more than `iou_threshold`. Tiles of boxes are settled in turn, until
    there are enough of them.

    Args:
        boxes: (batch, n, 4), float: (left, top, right, bottom), the best first.
        groups: (batch, n), int: the class or level of each.
        valid: (batch, n), bool: the first of each picture, and no other.
        iou_threshold: From 0 to 1.
        count: How many are kept at most.

    Returns:
        int32 (batch, count): places of the boxes, ascending, with -1 behind the last.
    """
    converter = functional.converter()
    if converter == "torch":
        return selection.onnx_suppress(boxes, groups, valid, iou_threshold, count)
    if converter:
        return selection.tensorflow_suppress(boxes, groups, valid, iou_threshold, count)
    n = boxes.shape[1]
    side = min(n, _TILE)
    tiles = -(-n // side)
    none = tiles * side  # stands behind all places

    def in_tiles(x):
        x = ops.pad(x, [(0, 0), (0, none - n)] + [(0, 0)] * (len(x.shape) - 2))
        return ops.reshape(x, (-1, tiles, side, *x.shape[2:]))

    boxes, groups, valid = (in_tiles(x) for x in (boxes, groups, valid))
    all_boxes, all_groups = ops.reshape(boxes, (-1, none, 4)), ops.reshape(groups, (-1, none))

    def conflicts(boxes, groups, other_boxes, other_groups):
        overlap = intersection_over_union(boxes, other_boxes) > iou_threshold
        same = ops.expand_dims(groups, 2) == ops.expand_dims(other_groups, 1)
        return ops.logical_and(overlap, same)

    def unfinished(tile, kept):
        own_valid = ops.take(valid, ops.minimum(tile, tiles - 1), axis=1)
        wanted = ops.logical_and(own_valid[:, 0], kept[:, -1] == none)
        return ops.logical_and(tile < tiles, ops.any(wanted))

    def settle(tile, kept):
        own = [ops.take(x, tile, axis=1) for x in (boxes, groups)]
        places = ops.minimum(kept, none - 1)
        before = conflicts(rows_of(all_boxes, places), rows_of(all_groups, places), *own)
        before = ops.logical_and(before, ops.expand_dims(kept < none, 2))
        left = ops.logical_and(
            ops.take(valid, tile, axis=1), ops.logical_not(ops.any(before, axis=1))
        )
        stays = greedy_suppression(conflicts(*own, *own), left)
        found = ops.where(stays, tile * side + ops.arange(side, dtype="int32"), none)
        return tile + 1, ops.sort(ops.concatenate([kept, found], axis=1), axis=1)[:, :count]

    kept = ops.full((ops.shape(boxes)[0], count), none, "int32")
    start = ops.convert_to_tensor(0, "int32")
    _, kept = ops.while_loop(unfinished, settle, (start, kept))
    return ops.where(kept < none, kept, -1)


def greedy_suppression(conflicts, valid):
    """Which boxes, sorted from best to worst, greedy suppression keeps.

    A box stays if it is valid and in conflict with no better box that stays. That
    is applied to all boxes at once until nothing changes: the best box is right after
    the first round, and each round settles at least one more. The result is unique,
    and that of the usual loop; the rounds are as many as the longest chain of boxes
    that free one another, which is a handful.

    Args:
        conflicts: (batch, boxes, boxes), bool, symmetric.
        valid: (batch, boxes), bool.

    Returns:
        (batch, boxes), bool.
    """
    rank = ops.arange(ops.shape(conflicts)[-1])
    better = rank[:, None] < rank[None, :]
    conflicts = ops.logical_and(conflicts, better)  # [i, j]: i is better and excludes j

    def changes(kept, changed):
        return changed

    def settle(kept, changed):
        excluded = ops.any(ops.logical_and(conflicts, kept[:, :, None]), axis=1)
        settled = ops.logical_and(valid, ops.logical_not(excluded))
        return settled, ops.any(ops.not_equal(settled, kept))

    kept, _ = ops.while_loop(changes, settle, (valid, ops.convert_to_tensor(True)))
    return kept


def detections(kept, boxes, scores, labels):
    """The answer of a detector: see `retinanet_detections`.

    Args:
        kept: int (batch, count), places of boxes, -1 behind the last: see `suppress`.
        boxes, scores, labels: (batch, n, 4), (batch, n) and (batch, n) that they are places in.
    """
    is_detection = kept >= 0
    places = ops.maximum(kept, 0)
    boxes, scores, labels = (rows_of(x, places) for x in (boxes, scores, labels))
    return {
        "boxes": ops.where(ops.expand_dims(is_detection, -1), boxes, -1.0),
        "labels": ops.where(is_detection, labels, -1),
        "confidence": ops.where(is_detection, scores, -1.0),
        "num_detections": ops.sum(ops.cast(is_detection, "int32"), axis=-1),
    }


def rows_of(x, places):
    """Rows of each picture by their places: (batch, n, ...), (batch, m) to (batch, m, ...).

    A flat `take`, which is faster than `take_along_axis` and which all converters know.
    """
    batch, count, *rest = ops.shape(x)
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * count, 1)
    return selection.take_rows(ops.reshape(x, (-1, *rest)), places + first)
