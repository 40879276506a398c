"""Data sets of TensorFlow Datasets, read from their record files."""

import contextlib
import difflib
import os
import pathlib
import sys

import numpy as np

from keras_sepvit.training.sources.source import ONE_PROCESS, Source, global_position, order_key
from keras_sepvit.training.tensorflow import tf
from keras_sepvit.validation import counted

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
            key = order_key(seed, epoch, 3)
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
                lambda slot, element: {"position": global_position(slot, shard, block), **element}
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
                f"{self.name} ({self.split}) has {counted(self.size, 'image')}, fewer than the "
                f"{shard.count} processes that are to share them."
            )
        part = tfds.even_splits(self.split, shard.count)[shard.index]
        files = self._builder.info.splits[part].file_instructions
        return (
            [os.fspath(file.filename) for file in files],
            np.array([file.skip for file in files], "int64"),
            np.array([file.take for file in files], "int64"),
        )


def open_tfds(name, split, data_dir):
    """The `TFDSSource` of a split; see `open_source`."""
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
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, RuntimeError) as error:
        # Else a version or configuration; what TFDS cannot parse is a path, perhaps.
        if not isinstance(error, tfds.core.DatasetNotFoundError) and "Parsing" not in str(error):
            raise ValueError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error
        close = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        raise ValueError(
            f"There is no data set {name!r}: it is not 'digits', not a folder and not among the "
            f"sets of TFDS{f'. Did you mean {close[0]!r}?' if close else '.'}"
        ) from error
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
