"""From scored boxes to detections: non-maximum suppression in `keras.ops`, with static shapes."""

from keras import ops

from keras_sepvit.detection.boxes import intersection_over_union


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
        candidates: Of all pairs of an image only so many, the best, are looked at;
            memory grows with their square.

    Returns:
        Boxes (batch, max_detections, 4), scores and labels (batch, max_detections), the
        best first, with -1 behind the last detection; and their number (batch,). Labels
        and numbers are int32.
    """
    _, count, classes = ops.shape(scores)
    pairs = ops.reshape(scores, (-1, count * classes))
    scores, pairs = _stable_top_k(pairs, min(candidates, count * classes))
    labels = pairs % classes
    boxes = ops.take_along_axis(boxes, (pairs // classes)[..., None], axis=1)

    overlap = intersection_over_union(boxes, boxes) > iou_threshold
    same_class = labels[:, :, None] == labels[:, None, :]
    kept = greedy_suppression(
        ops.logical_and(overlap, same_class), ops.greater(scores, score_threshold)
    )
    return _first(kept, boxes, scores, labels, max_detections)


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


def _stable_top_k(scores, k):
    """The k highest of the last axis; of equal ones the lower index first, on each backend."""
    scores, indices = ops.top_k(scores, k)
    order = ops.argsort(indices, axis=-1)
    scores, indices = (ops.take_along_axis(x, order, axis=-1) for x in (scores, indices))
    order = ops.argsort(-scores, axis=-1)
    scores, indices = (ops.take_along_axis(x, order, axis=-1) for x in (scores, indices))
    return scores, ops.cast(indices, "int32")


def _first(kept, boxes, scores, labels, count):
    """The first `count` of the kept ones, with -1 behind them, and their number."""
    available = ops.shape(kept)[-1]
    place = ops.arange(available)
    order = ops.argsort(ops.where(kept, place, place + available), axis=-1)
    if available < count:
        order = ops.pad(order, ((0, 0), (0, count - available)))
    order = order[:, :count]
    number = ops.minimum(ops.sum(ops.cast(kept, "int32"), axis=-1), count)
    is_detection = ops.arange(count)[None, :] < number[:, None]
    boxes = ops.take_along_axis(boxes, order[..., None], axis=1)
    scores, labels = (ops.take_along_axis(x, order, axis=-1) for x in (scores, labels))
    return (
        ops.where(is_detection[..., None], boxes, -1.0),
        ops.where(is_detection, scores, -1.0),
        ops.where(is_detection, labels, -1),
        number,
    )
