"""Sources of images and the pipeline: order, resume, sharing, bad files."""

import itertools
import pathlib
import runpy
import shutil

import numpy as np
import pytest
import training_data
from PIL import Image

from keras_sepvit.classification.images import EvalTransform, TrainTransform
from keras_sepvit.classification.task import labelled
from keras_sepvit.training import images
from keras_sepvit.training.pipeline import (
    batch_names,
    evaluation_batches,
    first_batches,
    steps_per_epoch,
    training_stream,
)
from keras_sepvit.training.report import DataReport
from keras_sepvit.training.sources.labelled import open_source, open_splits
from keras_sepvit.training.sources.source import ArraySource, Shard
from keras_sepvit.training.tensorflow import tf

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent


def shifted(image, seed):
    """A cheap augmentation, so that a stream starts fast: another brightness for each seed."""
    image = tf.image.resize(images.decode(image), (16, 16))
    shift = tf.random.stateless_uniform([], seed, -40, 40)
    return tf.saturate_cast(tf.round(image + shift), tf.uint8)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """27 JPEG files of 3 classes."""
    return training_data.write_folder(tmp_path_factory.mktemp("folder"), ("a", "b", "c"), 9)


@pytest.fixture(params=("digits", "folder", "tfds"))
def source(request, image_folder):
    if request.param == "digits":
        return open_source("digits", "validation")
    if request.param == "folder":
        return open_source(str(image_folder), "train")
    return open_source("tiny_shapes", "train", training_data.shapes())


def names(source, epoch=0, seed=0, shuffle=True, **kwargs):
    elements = source.elements(epoch, seed=seed, shuffle=shuffle, **kwargs)
    return [element["name"].numpy().decode() for element in elements]


def batches(source, count, transform=shifted, batch_size=4, seed=5, **kwargs):
    """Images and labels of a source's first batches."""

    def example(loaded, seed):
        return labelled(source, loaded, transform(loaded["image"], seed))

    stream = training_stream(source, example, batch_size=batch_size, seed=seed, **kwargs)
    return [(batch["image"], batch["label"]) for batch in stream.take(count).as_numpy_iterator()]


def batches_to_evaluate(source, transform, **kwargs):
    """Images, labels and which ones count of all batches."""

    def example(loaded):
        return labelled(source, loaded, transform(loaded["image"]))

    return [
        (batch["image"], batch["label"], batch["counts"])
        for batch in evaluation_batches(source, example, **kwargs).as_numpy_iterator()
    ]


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch[0], other[0])
        np.testing.assert_array_equal(batch[1], other[1])


# Sources


def test_digits_hold_out_what_the_quick_start_does():
    quickstart = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    expected = quickstart["load_images"]()
    for split, pictures, labels in (("train", 0, 2), ("validation", 1, 3)):
        source = open_source("digits", split)
        examples = list(source.examples(0, seed=0, shuffle=False).as_numpy_iterator())
        np.testing.assert_array_equal([x["image"] for x in examples], expected[pictures])
        np.testing.assert_array_equal([x["label"] for x in examples], expected[labels])


def test_digit_folds_are_disjoint_and_of_the_same_classes():
    def fold_images(split):
        source = open_source("digits", split)
        examples = list(source.examples(0, seed=0, shuffle=False).as_numpy_iterator())
        labels = np.bincount([example["label"] for example in examples])
        return [example["image"].tobytes() for example in examples], labels

    everything = fold_images("train")[0] + fold_images("validation")[0]
    folds = [fold_images(f"validation-fold{fold}") for fold in range(5)]
    assert sorted(sum((fold for fold, _ in folds), [])) == sorted(everything)
    for fold, labels in folds:
        assert len(fold) in (359, 360)
        assert np.all(abs(labels - len(everything) / 50) < 2)
    assert sorted(fold_images("train-fold3")[0] + folds[3][0]) == sorted(everything)


def test_a_folder_without_validation_holds_out_a_fifth_of_each_class(tmp_path):
    """Fifths are disjoint, make up the whole, and images that are added move few others."""
    counts = {"ant": 1, "bee": 2, "cat": 11, "dog": 40}
    for name, count in counts.items():
        training_data.write_folder(tmp_path / "train", (name,), count, seed=count)
    training_data.write_folder(tmp_path / "test", ("cat",), 1)

    def by_class(source):
        labels = np.array([path.split("/")[0] for path in source.paths])
        return {str(name): int((labels == name).sum()) for name in np.unique(labels)}

    train, validation = open_splits(f"folder:{tmp_path}", "train", "validation")
    assert (train.split, validation.split) == ("train-fold0", "validation-fold0")
    assert by_class(train) == {"ant": 1, "bee": 1, "cat": 9, "dog": 32}
    assert by_class(validation) == {"bee": 1, "cat": 2, "dog": 8}
    assert "held out for validation: 11 images, a fifth of each class" in str(train)
    assert "no images to validate on in ant" in str(validation)
    assert train.class_names == validation.class_names == tuple(counts)

    folds = [open_source(str(tmp_path), f"validation-fold{fold}") for fold in range(5)]
    paths = sum((fold.paths for fold in folds), [])
    assert len(set(paths)) == len(paths) == 53 and "ant/0.jpg" not in paths
    rest = open_source(str(tmp_path), "train-fold3").paths
    assert sorted(rest + folds[3].paths) == sorted(["ant/0.jpg", *paths])
    with pytest.raises(ValueError, match="'train-fold0' to 'train-fold4'"):
        open_source(str(tmp_path), "train-fold5")

    (tmp_path / "train" / "dog" / "new.jpg").write_bytes(training_data.encoded_image(1))
    later = open_source(str(tmp_path), "validation-fold0")
    assert len(set(later.paths) ^ set(validation.paths)) <= 2
    (tmp_path / "val").mkdir()
    training_data.write_folder(tmp_path / "val", ("cat",), 3)
    sources = open_splits(f"folder:{tmp_path}", "train", "validation")
    assert [(source.split, source.size) for source in sources] == [("train", 55), ("validation", 3)]


def test_class_folders_are_numbered_alike_in_all_splits(tmp_path):
    training_data.write_folder(tmp_path / "train", ("cat", "dog", "emu"), 2)
    training_data.write_folder(tmp_path / "val", ("emu", "cat"), 1)
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "dog" / "upper.JPEG").write_bytes(training_data.encoded_image(0))
    train, validation = (open_source(str(tmp_path), split) for split in ("train", "validation"))
    assert train.class_names == validation.class_names == ("cat", "dog", "emu")
    assert train.size == 7
    examples = validation.examples(0, seed=0, shuffle=False).as_numpy_iterator()
    assert [(x["name"], x["label"]) for x in examples] == [(b"cat/0.jpg", 0), (b"emu/0.jpg", 2)]


def test_numbered_class_folders_keep_their_numbers(tmp_path):
    classes = [str(number) for number in range(11)]
    training_data.write_folder(tmp_path, classes, 1)
    assert open_source(f"folder:{tmp_path}", "validation").class_names == tuple(classes)


def test_imagenet_comes_from_its_tfds_builder():
    data_dir = training_data.imagenet()
    train = open_source("imagenet2012", "train", data_dir)
    assert (train.size, train.classes) == (12, 1000)
    assert train.class_names[207] == "n02099601"
    found = set()
    for example in train.examples(0, seed=0, shuffle=True).as_numpy_iterator():
        assert example["image"].startswith(b"\xff\xd8")  # encoded still
        found.add((example["label"], example["image"]))
    assert found == {
        (number, training_data.encoded_image((1, synset, image)))
        for synset, number in enumerate(training_data.SYNSET_NUMBERS)
        for image in range(3)
    }
    transform = TrainTransform(image_size=16, auto_augment="rand-m9-mstd0.5-inc1")
    ((pictures, labels),) = batches(train, 1, transform, batch_size=12)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (12, 16, 16, 3))
    assert sorted(labels) == sorted(3 * training_data.SYNSET_NUMBERS)


# Order


def test_each_epoch_has_its_own_order(source):
    in_order = names(source, shuffle=False)
    assert len(set(in_order)) == source.size
    orders = [names(source, epoch, seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for order in orders:
        assert sorted(order) == sorted(in_order)
    for one, other in itertools.combinations([in_order, *orders], 2):
        assert one != other
    tf.random.set_seed(7)
    assert names(source, 1, 0) == orders[1]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_an_epoch(source, count):
    shards = [names(source, epoch=2, shard=Shard(index, count), block=3) for index in range(count)]
    for index, shard in enumerate(shards):
        assert len(shard) == source.shard_size(Shard(index, count), 3)
        left_out = names(source, epoch=2, shard=Shard(index, count), block=3, start=4)
        assert left_out == shard[4:]
    assert sorted(sum(shards, [])) == sorted(names(source))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_make_up_the_batches_of_one(image_folder, count):
    source = open_source(str(image_folder), "train")
    expected = batches(source, 8, batch_size=8)  # three in an epoch
    shards = [
        batches(source, 8, batch_size=8 // count, shard=Shard(index, count))
        for index in range(count)
    ]
    together = [
        tuple(np.concatenate(parts) for parts in zip(*step, strict=True))
        for step in zip(*shards, strict=True)
    ]
    assert_same(together, expected)


def test_a_stream_goes_on_anywhere(source):
    steps = steps_per_epoch(source, 4)
    kwargs = {"start_epoch": 1, "start_step": steps - 3}
    expected = batches(source, 8, **kwargs)  # ends in the third epoch
    for skipped in (1, 3, 5):
        epoch, step = divmod(2 * steps - 3 + skipped, steps)
        resumed = batches(source, 8 - skipped, start_epoch=epoch, start_step=step)
        assert_same(resumed, expected[skipped:])
    other = batches(source, 1, seed=6, **kwargs)
    assert np.any(other[0][0] != expected[0][0])
    # The end of an epoch is the start of the next.
    assert_same(batches(source, 1, start_epoch=1, start_step=steps), expected[3:4])


def test_augmentation_differs_by_epoch_and_image():
    image = np.random.default_rng(0).integers(50, 200, (1, 16, 16, 3), "uint8")
    source = ArraySource("same", "train", image.repeat(8, 0), [0] * 8, classes=1)
    found = np.concatenate([pictures for pictures, _ in batches(source, 4)])
    assert len({picture.tobytes() for picture in found}) == 16


def test_batch_names_are_those_of_the_stream(image_folder):
    source = open_source(str(image_folder), "train")
    (_, labels) = batches(source, 1, start_epoch=3, start_step=2)[0]
    found = batch_names(source, 3, 2, batch_size=4, seed=5)
    assert [source.class_names.index(name.split("/")[0]) for name in found] == list(labels)


# Bad files


def damage(folder):
    """Makes three files unreadable, and two readable though not what their names say."""
    truncated = folder / "a" / "0.jpg"
    truncated.write_bytes(truncated.read_bytes()[:200])
    (folder / "a" / "1.jpg").write_text("This is a text file.")
    (folder / "b" / "2.jpg").write_bytes(b"")
    (folder / "b" / "3.jpg").write_bytes(training_data.encoded_image(1, format="PNG"))
    (folder / "c" / "4.jpg").write_bytes(training_data.encoded_image(2, mode="CMYK"))
    return {"a/0.jpg", "a/1.jpg", "b/2.jpg"}


def test_unreadable_images_give_way_to_others_of_their_batch(image_folder, tmp_path):
    # Copies with the same names: one whole, one damaged.
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    shutil.copytree(image_folder, whole)
    shutil.copytree(image_folder, damaged)
    unreadable = damage(damaged)
    for name in ("b/3.jpg", "c/4.jpg"):
        shutil.copy(damaged / name, whole / name)

    report = DataReport()
    source = open_source(str(damaged), "train")
    steps = steps_per_epoch(source, 8)
    found = batches(source, 2 * steps, batch_size=8, report=report)
    expected = batches(open_source(str(whole), "train"), 2 * steps, batch_size=8)
    replaced = 0
    for number, (pictures, labels) in enumerate(found):
        here = batch_names(source, *divmod(number, steps), batch_size=8, seed=5)
        readable = [slot for slot, name in enumerate(here) if name not in unreadable]
        for slot in range(8):
            other = min(readable, key=lambda choice, slot=slot: (choice - slot) % 8)
            np.testing.assert_array_equal(pictures[slot], expected[number][0][other])
            assert labels[slot] == expected[number][1][other]
            replaced += other != slot
    assert replaced >= 3
    assert set(report.names) == unreadable
    assert report.unreadable == len(unreadable)
    assert "3 images could not be read" in str(report)
    # A stream that starts later has the same replacements.
    assert_same(batches(source, 3, batch_size=8, start_step=steps - 1), found[steps - 1 :][:3])


def test_disguised_images_are_read(image_folder, tmp_path):
    damaged = tmp_path / "images"
    shutil.copytree(image_folder, damaged)
    damage(damaged)
    source = open_source(str(damaged), "train")
    transform = EvalTransform(image_size=(40, 48), crop=1.0)
    ((pictures, _, weights),) = batches_to_evaluate(source, transform, batch_size=27)
    in_order = names(source, shuffle=False)
    for name in ("b/3.jpg", "c/4.jpg"):
        slot = in_order.index(name)
        assert weights[slot] == 1
        expected = Image.open(damaged / name).convert("RGB")
        difference = np.abs(pictures[slot].astype(int) - np.asarray(expected))
        assert np.mean(difference) < 3  # of JPEG decoders, and CMYK to RGB


@pytest.mark.parametrize(
    ("readable", "batch_size", "message"),
    [
        (0, 8, "None of the 8 images of a batch"),
        (30, 32, r"of the first 64 images .* cannot be read. Check the files, such as a/"),
    ],
)
def test_a_broken_data_set_stops_the_run(tmp_path, readable, batch_size, message):
    training_data.write_folder(tmp_path, ("a",), readable)
    (tmp_path / "a").mkdir(exist_ok=True)
    for number in range(readable, 96):
        (tmp_path / "a" / f"{number}.jpg").write_text("not found")
    report = DataReport()
    with pytest.raises(ValueError, match=message), report.raising():
        batches(open_source(str(tmp_path), "train"), 3, batch_size=batch_size, report=report)


def test_labels_out_of_range_stop_the_run():
    source = ArraySource("wrong", "train", np.zeros((8, 4, 4, 3), "uint8"), [3] * 8, classes=3)
    report = DataReport()
    message = r"Labels of wrong \(train\) are out of range: expected 0 to 2. Received: 3 for wrong"
    with pytest.raises(ValueError, match=message), report.raising():
        batches(source, 1, report=report)


def test_a_damaged_record_file_stops_the_run(tmp_path):
    shutil.copytree(training_data.shapes(), tmp_path / "data")
    *_, record_file = sorted((tmp_path / "data").rglob("*.tfrecord-*"))
    record_file.write_bytes(record_file.read_bytes()[:-5])
    report = DataReport()
    source = open_source("tiny_shapes", "train", tmp_path / "data")
    with pytest.raises(ValueError, match="file of records is damaged or missing"):
        with report.raising():
            batches(source, 6, report=report)


def test_other_errors_pass_a_report():
    with pytest.raises(KeyError, match="mine"), DataReport().raising():
        raise KeyError("mine")


# Evaluation


@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_sees_every_image_once(source, count):
    transform = EvalTransform(image_size=8)
    seen = []
    for index in range(count):
        shard = batches_to_evaluate(source, transform, batch_size=5, shard=Shard(index, count))
        assert len(shard) == -(-source.size // (5 * count))
        for pictures, labels, weights in shard:
            assert (pictures.shape, labels.shape, weights.shape) == ((5, 8, 8, 3), (5,), (5,))
            assert (pictures.dtype, labels.dtype, weights.dtype) == ("uint8", "int32", "bool")
            seen += list(labels[weights])
    expected = source.examples(0, seed=0, shuffle=False).as_numpy_iterator()
    assert sorted(seen) == sorted(example["label"] for example in expected)


def test_evaluation_gives_unreadable_images_no_weight(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    unreadable = damage(tmp_path / "images")
    source = open_source(str(tmp_path / "images"), "validation")
    report = DataReport()
    transform = EvalTransform(image_size=8)
    data = batches_to_evaluate(source, transform, batch_size=4, report=report)
    weights = np.concatenate([weights for _, _, weights in data])
    in_order = names(source, shuffle=False)
    assert [name for name, weight in zip(in_order, weights, strict=False) if not weight] == [
        name for name in in_order if name in unreadable
    ]
    assert set(report.names) == unreadable


# Bad arguments


@pytest.mark.parametrize(
    ("name", "split", "error", "message"),
    [
        ("imagenet212", "train", ValueError, "no data set 'imagenet212'.*mean 'imagenet2012'"),
        ("tfds:imagenet2012:9.9.9", "train", ValueError, "cannot open 'imagenet2012:9.9.9'"),
        ("tiny_shapes", "test", ValueError, "no split 'test'. Its splits in .* are: 'train'"),
        ("digits", "test", ValueError, "no split 'test'. Expected 'train' or 'validation'"),
        ("digits", "train-fold5", ValueError, "no split 'train-fold5'"),
        ("folder:nowhere", "train", FileNotFoundError, "no folder 'nowhere' .looked for in"),
        ("./nowhere", "train", FileNotFoundError, "no folder './nowhere'"),
        ("no/such/folder", "train", ValueError, "no data set 'no/such/folder'.*not a folder"),
        ("./file.png", "train", NotADirectoryError, "file.png' is a file. Expected a folder"),
        ("folder:empty", "train", ValueError, "'empty' has no class folders"),
        ("folder:no_images", "train", ValueError, "no class folders with pictures.*It has: a"),
        ("folder:split", "validation", ValueError, "no folder for the split .validation.*: train"),
        ("folder:new_class", "test", ValueError, "class folders that .*train' lacks: dog"),
    ],
)
def test_data_that_are_not_there(tmp_path, monkeypatch, name, split, error, message):
    data_dir = training_data.shapes()
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "no_images/a", "split/train/a", "new_class/train/cat"):
        pathlib.Path(folder).mkdir(parents=True)
    training_data.write_folder(pathlib.Path("new_class/test"), ("dog",), 1)
    pathlib.Path("file.png").touch()
    with pytest.raises(error, match=message):
        open_source(name, split, data_dir)


def test_missing_archives_of_imagenet_are_named(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_train.tar").touch()
    with pytest.raises(FileNotFoundError) as error:
        open_source("imagenet2012", "train", tmp_path)
    message = str(error.value)
    assert f"archives are missing: {manual / 'ILSVRC2012_img_val.tar'}." in message
    assert "--data-dir" in message and "TFDS_DATA_DIR" in message


def test_a_set_that_cannot_be_prepared_tells_how_to(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def download(manager, url):
        raise ConnectionError("no network\nand much more")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    with pytest.raises(ValueError) as error:
        open_source("imagenet_v2", "test", tmp_path)
    message = str(error.value)
    assert "could not prepare 'imagenet_v2'" in message and "ConnectionError: no net" in message
    assert "tfds build imagenet_v2 --data_dir=FOLDER" in message
    assert "much more" not in message


def test_arguments_out_of_range(image_folder):
    source = open_source(str(image_folder), "train")
    with pytest.raises(ValueError, match="too few for a batch of 40.*batch_size=20 for 2 proc"):
        batches(source, 1, batch_size=20, shard=Shard(1, 2))
    with pytest.raises(ValueError, match="`start_step` must .* has 6. Received: 7"):
        batches(source, 1, start_step=7)
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        batches_to_evaluate(source, EvalTransform(image_size=8), batch_size=0)
    with pytest.raises(ValueError, match="Received: index=2, count=2"):
        Shard(2, 2)
    with pytest.raises(ValueError, match="shapes known beforehand. Received: 'image' of shape"):
        batches(source, 1, lambda image, seed: images.decode(image))


@pytest.mark.once
def test_first_batches_are_of_one_shape():
    """As many as hold so many images."""

    def stream():
        for number, side in enumerate((4, 6, 4, 4, 6, 4)):
            yield {"image": np.zeros((3, side, side, 3)), "number": np.int64(number)}

    spec = {"image": tf.TensorSpec((3, None, None, 3)), "number": tf.TensorSpec((), tf.int64)}
    stream = tf.data.Dataset.from_generator(stream, output_signature=spec)
    for count, expected in ((1, [0]), (3, [0]), (4, [0, 2]), (12, [0, 2, 3, 5])):
        assert [batch["number"] for batch in first_batches(stream, count)] == expected
