"""Where images come from: the digits, a folder of class folders, a TFDS data set.

A source tells the order of an epoch as a pure function of (seed, epoch), so that a run
can go on anywhere in it. Elements of that order are cheap; reading and parsing an image
is a step of its own, which a pipeline does in parallel.
"""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import sys
import warnings

import keras
import numpy as np

from keras_sepvit.files import IMAGE_SUFFIXES
from keras_sepvit.training.digits import BRIGHTEST, load_digits_split

try:
    import tensorflow as tf
except ImportError as error:
    raise ImportError(
        "Training and evaluation data are read with TensorFlow, whatever the backend is: "
        'pip install "keras-sepvit[train]".'
    ) from error

if keras.config.backend() != "tensorflow":
    # TensorFlow would reserve the memory of GPUs that JAX or PyTorch computes on.
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        warnings.warn(
            "TensorFlow was used before keras_sepvit.training was imported, and may hold the "
            "memory of the GPUs. Import keras_sepvit.training first.",
            stacklevel=2,
        )

DIGITS = "digits"
DIGITS_SIZE = 32

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}

# The files that TFDS wants for the data sets that cannot be downloaded without an account.
_IMAGENET_ARCHIVES = {
    "imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    "imagenet2012_real": ("ILSVRC2012_img_val.tar",),
}

# Record files that are read in turn, records taken from one at a time, and the records
# among which the order is shuffled (about 1 GB of ImageNet).
_INTERLEAVED_FILES = 16
_BLOCK = 16
_SHUFFLED_RECORDS = 10_000
_READ_BYTES = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of the data a process reads.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes of the run.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(
                "`index` must be at least 0 and below `count`. "
                f"Received: index={self.index}, count={self.count}."
            )


ONE_PROCESS = Shard()


class Source:
    """A set of labelled images.

    Attributes:
        name: What `open_source` calls it.
        split: Name of the part of it.
        size: Number of images.
        classes: Number of classes.
        class_names: Their names in the order of their numbers, or None.
        multi_label: Whether an image has a set of labels, possibly empty. A label is
            then an int32 tensor of shape (labels,) in place of a scalar.
        crop: Share of the shorter side that evaluation usually keeps.
    """

    crop = 0.875

    def __init__(self, name, split, *, size, classes, class_names=None, multi_label=False):
        if not size:
            raise ValueError(f"The split {split!r} of {name} holds no images.")
        self.name = name
        self.split = split
        self.size = size
        self.classes = classes
        self.class_names = class_names
        self.multi_label = multi_label

    def __str__(self):
        return f"{self.name} ({self.split}, {self.size:,} images, {self.classes:,} classes)"

    def elements(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        """The order of one epoch, without reading the images.

        Args:
            epoch: Number of the epoch; int, or scalar int64 tensor.
            seed: Seed of the order; int.
            shuffle: Whether each epoch has its own random order. Otherwise all have
                that of the data.
            shard: The part of this process: in the epoch's global order, of every
                `shard.count * block` positions the `shard.index`-th block.
            block: Length of the blocks; a process's images in a batch.
            start: How many of this process's elements to leave out; int, or scalar
                int64 tensor.

        Returns:
            `tf.data.Dataset` of dicts, in which `"position"` (scalar int64) is the
            position in the epoch's global order and `"name"` (scalar string) tells
            the image. The rest is for `load`.
        """
        raise NotImplementedError

    def load(self, element):
        """`"image"` (encoded, a scalar string; or uint8 (height, width, channels)) and `"label"`.

        Fails, in the graph, where an image cannot be read.
        """
        raise NotImplementedError

    def shard_size(self, shard, block=1):
        """How many elements an epoch of a process has, before any are left out."""
        raise NotImplementedError

    def examples(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        """One epoch as `tf.data.Dataset` of `"image"`, `"label"`, `"position"` and `"name"`.

        Arguments are those of `elements`, values those of `load` and `elements`.
        """

        def example(element):
            known = {key: element[key] for key in ("position", "name")}
            return {**self.load(element), **known}

        elements = self.elements(
            epoch, seed=seed, shuffle=shuffle, shard=shard, block=block, start=start
        )
        return elements.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


class _IndexedSource(Source):
    """A source whose images can be read in any order.

    An epoch is a permutation of all images, the same for any number of processes.
    """

    def elements(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        key = _key(seed, epoch, 2)

        def element(slot):
            position = _position(slot, shard, block)
            index = position
            if shuffle:
                index = tf.random.experimental.index_shuffle(
                    position, key, tf.constant(self.size - 1, tf.int64)
                )
            return {"position": position, "name": self._name(index), "index": index}

        start = tf.cast(start, tf.int64)
        end = tf.maximum(start, self.shard_size(shard, block))
        return tf.data.Dataset.range(start, end).map(element)

    def shard_size(self, shard, block=1):
        rounds, rest = divmod(self.size, shard.count * block)
        return rounds * block + min(max(rest - shard.index * block, 0), block)

    def _name(self, index):
        raise NotImplementedError


class ArraySource(_IndexedSource):
    """Images in memory: uint8 (count, height, width, channels), with int labels (count,)."""

    crop = 1.0  # such images are small, and no photographs with a border to spare

    def __init__(self, name, split, images, labels, *, classes, class_names=None):
        super().__init__(name, split, size=len(images), classes=classes, class_names=class_names)
        self._images = tf.constant(images, tf.uint8)
        self._labels = tf.constant(labels, tf.int32)

    def load(self, element):
        index = element["index"]
        return {"image": self._images[index], "label": self._labels[index]}

    def _name(self, index):
        return tf.strings.join([f"{self.name}/{self.split}:", tf.strings.as_string(index)])


class FolderSource(_IndexedSource):
    """Image files in one folder a class; a class's number is its folder's place among them.

    Attributes:
        folder: The folder that holds the class folders.
    """

    def __init__(self, name, split, folder, class_names):
        self.folder = folder
        files = [_image_files(folder / class_name) for class_name in class_names]
        super().__init__(
            name,
            split,
            size=sum(map(len, files)),
            classes=len(class_names),
            class_names=tuple(class_names),
        )
        self._files = tf.constant(
            [
                f"{class_name}/{file}"
                for class_name, names in zip(class_names, files, strict=True)
                for file in names
            ]
        )
        self._labels = tf.repeat(tf.range(len(files)), [len(names) for names in files])

    def load(self, element):
        path = tf.strings.join([f"{self.folder}{os.sep}", element["name"]])
        return {"image": tf.io.read_file(path), "label": self._labels[element["index"]]}

    def _name(self, index):
        return self._files[index]


class TFDSSource(Source):
    """A prepared data set of TensorFlow Datasets, its images encoded as they are stored.

    An epoch's order is that of shuffled record files, read several at a time, and of
    a buffer of records. A process has its own, even part of the records.
    """

    def __init__(self, name, split, builder):
        import tensorflow_datasets as tfds

        info = _split_info(name, split, builder)
        self._builder = builder
        self._image, self._label = _image_and_label(name, builder.info)
        features = builder.info.features
        label = features[self._label]
        multi_label = isinstance(label, tfds.features.Sequence)
        class_label = label.feature if multi_label else label
        super().__init__(
            f"tfds:{name}",
            split,
            size=info.num_examples,
            classes=class_label.num_classes,
            class_names=tuple(class_label.names),
            multi_label=multi_label,
        )
        # Only these are parsed.
        self._features = tfds.features.FeaturesDict(
            {key: features[key] for key in (self._image, self._label)}
        )

    def elements(self, epoch, *, seed, shuffle, shard=ONE_PROCESS, block=1, start=0):
        paths, skip, take = self._record_files(shard)

        def records(file):
            path = tf.gather(paths, file)
            first = tf.gather(skip, file)
            file_name = tf.strings.split(path, os.sep)[-1]

            def element(number, record):
                name = tf.strings.join([file_name, ":", tf.strings.as_string(number)])
                return {"name": name, "record": record}

            dataset = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES)
            dataset = dataset.skip(first).take(tf.gather(take, file))
            return dataset.enumerate(first).map(element)

        def one_epoch(epoch):
            if shuffle:
                # Only this graph's: `Dataset.shuffle` would mix Keras's global seed in.
                tf.compat.v1.set_random_seed(1)
            key = _key(seed, epoch, 3)
            files = tf.data.Dataset.range(len(paths))
            if shuffle:
                last = tf.constant(len(paths) - 1, tf.int64)
                files = files.map(
                    lambda file: tf.random.experimental.index_shuffle(file, key[:2], last)
                )
            dataset = files.interleave(
                records,
                cycle_length=_INTERLEAVED_FILES,
                block_length=_BLOCK,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            if shuffle:
                dataset = dataset.shuffle(
                    min(_SHUFFLED_RECORDS, sum(take)),
                    seed=tf.cast(key[2], tf.int64),
                    reshuffle_each_iteration=False,
                )
            dataset = dataset.skip(tf.cast(start, tf.int64)).enumerate(tf.cast(start, tf.int64))
            return dataset.map(
                lambda slot, element: {"position": _position(slot, shard, block), **element}
            )

        return tf.data.Dataset.from_tensors(tf.cast(epoch, tf.int64)).flat_map(one_epoch)

    def load(self, element):
        import tensorflow_datasets as tfds

        features = self._features.deserialize_example(
            element["record"], decoders={self._image: tfds.decode.SkipDecoding()}
        )
        return {"image": features[self._image], "label": tf.cast(features[self._label], tf.int32)}

    def shard_size(self, shard, block=1):
        return int(sum(self._record_files(shard)[2]))

    def _record_files(self, shard):
        """Paths, records to skip and records to take of the files of a process."""
        import tensorflow_datasets as tfds

        if self.size < shard.count:
            raise ValueError(
                f"{self.name} ({self.split}) has {self.size} images, fewer than the "
                f"{shard.count} processes that are to share them."
            )
        part = tfds.even_splits(self.split, shard.count)[shard.index]
        files = self._builder.info.splits[part].file_instructions
        return (
            [os.fspath(file.filename) for file in files],
            np.array([file.skip for file in files], "int64"),
            np.array([file.take for file in files], "int64"),
        )


def open_source(name, split, data_dir=None):
    """Opens a set of labelled images.

    Args:
        name: `"digits"`, the scans of scikit-learn's `load_digits` as RGB images of
            32 x 32; `"folder:PATH"`, or a path that exists: a folder of class
            folders; else the name of a TFDS data set, such as `"imagenet2012"`,
            `"tfds:imagenet_v2/matched-frequency:3.0.0"`.
        split: `"train"`, `"validation"`, or another split of the data set. For the
            digits `"train-fold2"` and `"validation-fold2"`, say, hold out another
            fifth; without a number it is fold 0, of 0 to 4. For TFDS also parts of
            splits such as `"train[:10%]"`. A folder is searched for a folder of that
            name (`"val"` will do for validation), with the class folders inside; if
            it has no such folders, it holds the class folders itself, and serves for
            every split.
        data_dir: Where TFDS keeps its data; by default `~/tensorflow_datasets`, or
            the environment variable `TFDS_DATA_DIR`.

    Returns:
        A `Source`.

    Raises:
        ValueError: if there is no such data set or split, or it holds no images, or
            TFDS cannot prepare it; the message tells how to.
        FileNotFoundError: if the folder, or archives that TFDS needs, are missing.
        ImportError: if a package is missing.
    """
    if name == DIGITS:
        return _open_digits(split)
    if name.startswith("folder:"):
        return _open_folder(pathlib.Path(name.removeprefix("folder:")), split)
    if name.startswith("tfds:"):
        return _open_tfds(name.removeprefix("tfds:"), split, data_dir)
    if pathlib.Path(name).is_dir():
        return _open_folder(pathlib.Path(name), split)
    if name.startswith((".", "~", os.sep)):
        raise FileNotFoundError(f"There is no folder '{name}'.")
    return _open_tfds(name, split, data_dir)


def _open_digits(split):
    scans, labels = load_digits_split(split)
    scans = scans[..., None] * (255 / BRIGHTEST)
    images = tf.image.resize(scans.astype("float32"), (DIGITS_SIZE, DIGITS_SIZE)).numpy()
    images = np.rint(images).astype("uint8").repeat(3, axis=-1)
    return ArraySource(
        DIGITS, split, images, labels, classes=10, class_names=tuple(map(str, range(10)))
    )


def _open_folder(path, split):
    path = path.expanduser()
    name = f"folder:{path}"
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no folder '{path}' (looked for in '{path.absolute().parent}')."
        )
    present = {
        key: path / folder
        for key, folders in {**SPLIT_FOLDERS, split: SPLIT_FOLDERS.get(split, (split,))}.items()
        for folder in folders
        if (path / folder).is_dir()
    }
    if present and split not in present:
        raise ValueError(
            f"'{path}' has no folder for the split {split!r}. It has: "
            f"{', '.join(sorted(folder.name for folder in present.values()))}."
        )
    folder = present.get(split, path)
    class_names = _class_folders(folder)
    if "train" in present:
        # A class that a smaller split lacks must not renumber the others.
        known = _class_folders(present["train"])
        unknown = sorted(set(class_names) - set(known))
        if unknown:
            raise ValueError(
                f"'{folder}' has class folders that '{present['train']}' lacks: "
                f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}."
            )
        class_names = known
    if not class_names:
        raise ValueError(
            f"'{folder}' has no class folders. Expected one folder a class, with image files "
            f"({', '.join(IMAGE_SUFFIXES)}) inside."
        )
    return FolderSource(name, split, folder, class_names)


def _class_folders(folder):
    """Names of the class folders, in the order of the classes' numbers."""
    with os.scandir(folder) as entries:
        names = [
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        ]
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)  # ImageNet V2: "0" to "999"
    return sorted(names)


def _image_files(folder):
    """Names of the image files of a class, sorted; none where the folder is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".")
        )


def _open_tfds(name, split, data_dir):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f'The data set {name!r} needs TensorFlow Datasets: pip install "keras-sepvit[train]".'
        ) from error

    if data_dir is not None:
        data_dir = pathlib.Path(data_dir).expanduser()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        close = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        raise ValueError(
            f"There is no data set {name!r}: it is not 'digits', not a folder and not among the "
            f"sets of TFDS{f'. Did you mean {close[0]!r}?' if close else '.'}"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:  # a version or configuration
        raise ValueError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error
    if not builder.is_prepared():
        _prepare(builder, name)
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"The data of {name!r} in '{builder.data_dir}' are stored as "
            f"{builder.info.file_format.value}. Only tfrecord can be read here: prepare them "
            f"again with `tfds build {name} --file_format=tfrecord`."
        )
    return TFDSSource(name, split, builder)


def _prepare(builder, name):
    """Downloads a data set, or makes it from archives, with messages a user can follow."""
    root = builder.data_dir_root
    archives = _IMAGENET_ARCHIVES.get(builder.name, ())
    manual_dir = root / "downloads" / "manual"
    missing = [archive for archive in archives if not (manual_dir / archive).exists()]
    if missing:
        raise FileNotFoundError(
            f"The data of {name!r} are not in '{builder.data_dir}', and to make them these "
            f"archives are missing: {', '.join(str(manual_dir / file) for file in missing)}. "
            "Register at https://image-net.org/download-images, download them, and put them (or "
            "links to them) there unchanged. Or give the folder that holds the prepared data, or "
            "downloads/manual with the archives, as data_dir (--data-dir), or in the environment "
            "variable TFDS_DATA_DIR."
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for a command's result
            builder.download_and_prepare()
    except Exception as error:  # each builder fails in its own way
        instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        raise ValueError(
            f"TFDS could not prepare {name!r} in '{builder.data_dir}': "
            f"{type(error).__name__}: {_first_line(error)} "
            + (
                f"It needs files that only you can download, in '{manual_dir}': "
                f"{' '.join(instructions.split())} "
                if instructions
                else ""
            )
            + f"Prepare it on a machine with network access, `tfds build {name} "
            "--data_dir=FOLDER`, and give FOLDER as data_dir (--data-dir)."
        ) from error


def _split_info(name, split, builder):
    try:
        return builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{name!r} has no split {split!r}. Its splits in '{builder.data_dir}' are: "
            f"{', '.join(map(repr, builder.info.splits)) or 'none'}."
        ) from error


def _image_and_label(name, info):
    """Names of the features to train on."""
    import tensorflow_datasets as tfds

    image, label, *_ = info.supervised_keys or ("image", "label")
    found = [dict(info.features.items()).get(key) for key in (image, label)]
    class_label = getattr(found[1], "feature", found[1])
    if not isinstance(found[0], tfds.features.Image) or not isinstance(
        class_label, tfds.features.ClassLabel
    ):
        raise ValueError(
            f"{name!r} is no data set for image classification: expected an Image and a "
            f"ClassLabel. Its features are: {', '.join(info.features)}."
        )
    return image, label


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _key(seed, epoch, length):
    """int32 (length,) of random bits for an epoch."""
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.stateless_uniform([length], pair, minval=None, maxval=None, dtype=tf.int32)


def _position(slot, shard, block):
    """Position in the global order of the `slot`-th element of a process."""
    return (slot // block * shard.count + shard.index) * block + slot % block
