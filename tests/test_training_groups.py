"""Sources of which some images never share a batch with others: order, shapes, resume, sharing."""

import numpy as np
import pytest

from keras_sepvit.training.pipeline import (
    batch_names,
    evaluation_batches,
    evaluation_steps,
    steps_per_epoch,
    training_stream,
)
from keras_sepvit.training.report import DataReport
from keras_sepvit.training.sources.source import ArraySource, Shard
from keras_sepvit.training.tensorflow import tf

pytestmark = pytest.mark.once

# 23, 9 and 1 images, in a random order.
GROUPS = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [23, 9, 1]))
SHAPES = ((8, 12), (12, 8), (4, 4))


class Numbered(ArraySource):
    """Images that are their own numbers; one of them cannot be read."""

    def __init__(self, unreadable=-1):
        images = np.broadcast_to(np.arange(33)[:, None, None, None], (33, 4, 4, 3))
        super().__init__("numbers", "all", images, np.zeros(33), classes=1)
        self.groups = GROUPS
        self.unreadable = unreadable

    def load(self, element):
        known = element["index"] != self.unreadable
        with tf.control_dependencies([tf.debugging.Assert(known, ["broken"])]):
            return {"image": tf.identity(super().load(element)["image"])}


def numbered(example, seed=(0, 0)):
    """An image of its group's shape; its number; its seed, which tells epoch and position."""
    image = tf.image.resize(example["image"], SHAPES[example["group"]], method="nearest")
    return {"image": image, "number": example["image"][0, 0, 0], "seed": seed}


def stream(count, batch_size=4, **kwargs):
    batches = training_stream(Numbered(), numbered, batch_size=batch_size, seed=3, **kwargs)
    return list(batches.take(count).as_numpy_iterator())


def test_batches_never_mix_groups_and_an_epoch_has_their_whole_blocks():
    source = Numbered()
    steps = steps_per_epoch(source, 4)
    assert steps == 5 + 2  # of the third group one image does not fill a batch
    assert steps_per_epoch(source, 1) == 33
    batches = stream(3 * steps)
    for batch in batches:
        (group,) = {GROUPS[number] for number in batch["number"]}
        assert batch["image"].shape == (4, *SHAPES[group], 3)
        assert (batch["image"] == batch["number"][:, None, None, None]).all()
    epochs = [batches[i : i + steps] for i in range(0, 3 * steps, steps)]
    for epoch in epochs:
        numbers = np.concatenate([batch["number"] for batch in epoch])
        assert len({*numbers}) == len(numbers) == 28
    orders = [tuple(GROUPS[batch["number"][0]] for batch in epoch) for epoch in epochs]
    assert len({*orders}) > 1 and {sum(order) for order in orders} == {2}
    assert any(0 < order.index(1) < steps - 2 for order in orders)  # not group after group
    left_out = [{*range(33)} - {*np.concatenate([b["number"] for b in e])} for e in epochs]
    assert len(set.union(*left_out)) > 5  # each epoch leaves out others
    names = [
        name for step in range(steps) for name in batch_names(source, 2, step, batch_size=4, seed=3)
    ]
    assert names == [f"numbers/all:{n}" for batch in epochs[2] for n in batch["number"]]


@pytest.mark.parametrize("epoch, step", [(0, 3), (1, 0), (1, 6), (1, 7)])
def test_a_stream_goes_on_from_any_place(epoch, step):
    whole = stream(21)[7 * epoch + step :]
    for batch, expected in zip(
        stream(len(whole), start_epoch=epoch, start_step=step), whole, strict=True
    ):
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])


def test_two_processes_read_what_one_does():
    parts = [stream(14, batch_size=2, shard=Shard(index, 2)) for index in (0, 1)]
    for first, second, expected in zip(*parts, stream(14), strict=True):
        for key in expected:
            np.testing.assert_array_equal(np.concatenate([first[key], second[key]]), expected[key])


@pytest.mark.parametrize("batch_size, processes", [(4, 1), (2, 2), (40, 1), (1, 1)])
def test_an_evaluation_has_every_image_once_and_each_process_as_many_batches(batch_size, processes):
    broken = int(np.flatnonzero(GROUPS == 1)[3])
    report, source = DataReport(), Numbered(broken)
    steps = evaluation_steps(source, batch_size, Shard(0, processes))
    assert steps == {4: 6 + 3 + 1, 2: 6 + 3 + 1, 40: 3, 1: 33}[batch_size]
    parts = [
        evaluation_batches(
            source, numbered, batch_size=batch_size, shard=Shard(index, processes), report=report
        )
        for index in range(processes)
    ]
    assert all(part.cardinality() == steps for part in parts)
    numbers, groups = [], []
    for together in zip(*(part.as_numpy_iterator() for part in parts), strict=True):
        for batch in together:
            found = batch["number"][batch["counts"]]
            expected = [f"numbers/all:{number}".encode() for number in found]
            assert batch["name"][batch["counts"]].tolist() == expected
            assert not batch["image"][~batch["counts"]].any()
            assert len(batch["image"]) == batch_size
            numbers += found.tolist()
        groups.append(SHAPES.index(batch["image"].shape[1:3]))
    assert groups == sorted(groups)
    assert numbers == [n for n in np.argsort(GROUPS, kind="stable") if n != broken]
    assert report.names == [f"numbers/all:{broken}"]


def test_an_unreadable_image_is_replaced_by_one_of_its_group():
    broken = int(np.flatnonzero(GROUPS == 0)[3])
    report = DataReport()
    batches = training_stream(Numbered(broken), numbered, batch_size=4, seed=3, report=report)
    for batch, whole in zip(batches.take(7).as_numpy_iterator(), stream(7), strict=True):
        different = batch["number"] != whole["number"]
        assert (whole["number"][different] == broken).all()
        assert len({GROUPS[number] for number in batch["number"]}) == 1
    assert report.unreadable == 1


def test_groups_that_all_fill_no_batch_are_refused():
    with pytest.raises(ValueError, match="has 33 images, too few for a batch of 24"):
        steps_per_epoch(Numbered(), 24)
