"""benchmarks/learning.py: pictures, networks, what runs an experiment has, and what is told."""

import io
import itertools
import json
import shutil
import types

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub", reason="needs the `benchmark` extra")

from learners import report
from learners.networks import TITLES, build_network
from learners.pictures import Pictures, read_pictures, training_batches
from learners.plans import (
    BATCH_OF_FEWER,
    EQUAL_SECONDS,
    OF_FEWER,
    SETTINGS,
    SWINS,
    WAYS,
    fewer_waves,
    network_waves,
    way_waves,
)
from learners.runs import Run, train
from PIL import Image

pytestmark = [
    pytest.mark.once,
    # Of KerasHub's layers, on maps of one position.
    pytest.mark.filterwarnings("ignore:Layer 'attn'", "ignore:You are using a softmax"),
]

COUNT = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in CIFAR-10's form: 40 pictures of each of ten classes, of its own grey."""
    folder = tmp_path_factory.mktemp("cifar")
    labels = np.tile(np.arange(10), COUNT).astype("uint8")
    files = []
    for number, label in enumerate(labels):
        file = io.BytesIO()
        grey = np.full((32, 32, 3), 20 * label + number // 10 % 15, "uint8")
        Image.fromarray(grey).save(file, "JPEG", quality=95)
        files.append(np.frombuffer(file.getvalue(), "uint8"))
    arrays = {
        "jpegs": np.concatenate(files),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": labels,
        "class_names": np.array(list("abcdefghij")),
    }
    for split in ("train", "test"):
        np.savez(folder / f"cifar10_{split}.npz", **arrays)
    return folder


def test_pictures_are_of_the_classes_asked_for(data):
    pictures = read_pictures(data, "train", (1, 3), count=20, seed=0)
    assert pictures.images.shape == (20, 32, 32, 3) and pictures.class_names == ("b", "d")
    assert np.bincount(pictures.labels).tolist() == [10, 10]
    greys = pictures.images.mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(greys // 20, 1 + 2 * pictures.labels)
    again, other = (read_pictures(data, "train", (1, 3), count=20, seed=s).images for s in (0, 1))
    np.testing.assert_array_equal(again, pictures.images)
    assert np.any(again != other)
    with pytest.raises(ValueError, match="There are 40 pictures of a class, and not 50"):
        read_pictures(data, "train", (1, 3), count=100)
    with pytest.raises(FileNotFoundError, match="--data is a folder with CIFAR-10"):
        read_pictures(data / "none", "train", (1, 3))


def test_batches_are_shifted_and_flipped_pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (24, 32, 32, 3), dtype="uint8")
    batches = training_batches(Pictures(images, np.arange(24), "abc"), 8, seed=1)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    seen, flips = [], 0
    for (batch,), _ in zip(batches, range(3), strict=False):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            found = [
                flipped
                for top in range(9)
                for left in range(9)
                for flipped in (False, True)
                if np.array_equal(
                    padded[label, top : top + 32, left : left + 32][:, :: -1 if flipped else 1],
                    image,
                )
            ]
            assert len(found) == 1
            flips += found[0]
            seen.append(int(label))
    assert sorted(seen) == list(range(24)) and 4 < flips < 20


@pytest.mark.thorough
def test_networks_cost_about_the_same(data):
    """The same widths, and MACs within a tenth; one step leaves a network without PEG so."""
    from keras_sepvit.complexity.graph import traced_macs

    macs = {}
    for name in ("sepvit", "swin", "no_gsa", "average_pooling", "no_peg"):
        network = build_network(name, 32, 10)
        macs[name] = traced_macs(network, (32, 32, 3))
        assert network.output_shape == (None, 10)
    assert all(abs(count / macs["sepvit"] - 1) < 0.1 for count in macs.values()), macs
    pegs = [layer for layer in network.layers if layer.name.endswith("peg")]
    assert len(pegs) == 4 and not any(np.any(w) for peg in pegs for w in peg.get_weights())
    assert not any(peg.trainable_variables for peg in pegs)


@pytest.mark.thorough
def test_larger_networks_repeat_pixels():
    """As their own layers see the repeated pixels of pictures."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    for name in ("sepvit", "swin"):
        network = build_network(name, 64, 10)
        head, inputs = network.output, network.get_layer("repeated_pixels").output
        repeated = pictures.repeat(2, axis=1).repeat(2, axis=2)
        expected = keras.Model(inputs, head).predict(repeated, verbose=0)
        np.testing.assert_allclose(network.predict(pictures, verbose=0), expected, atol=1e-5)


@pytest.mark.thorough
def test_a_run_leaves_its_results(data, tmp_path):
    """A Swin that is trained, loaded with a new head, started from, and asked as a teacher."""
    common = {"data": str(data), "epochs": 2, "batch_size": 20, "classes": (0, 9), "pictures": 40}
    train(Run("first", "swin", 0, saved=True, **common), tmp_path, "abc")
    swin = str(tmp_path / "first-0.keras")
    second = Run("second", "swin", 1, weights=swin, saved=True, **common)
    train(second, tmp_path, "abc", turn=str(tmp_path / "turn"))
    taught = Run(
        "third", "sepvit", 0, warm_start=swin, parts=("mlp", "norms"), teacher=swin, **common
    )
    train(taught, tmp_path, "abc")
    results = report.read_results(tmp_path)
    assert set(results) == {"first", "second", "third"}
    for (result,) in results.values():
        assert len(result["top1"]) == len(result["seconds"]) == 2
        assert result["seconds"][1] > result["seconds"][0] > 0
        assert all(0 <= top1 <= 100 for top1 in result["top1"])
        assert all(np.isfinite(result["loss"]))
    assert results["third"][0]["report"].startswith(f"Started from '{swin}'")
    second = keras.models.load_model(tmp_path / "second-1.keras")
    assert second.output_shape == (None, 2)


def test_ways_begin_from_other_classes_than_they_are_compared_on(tmp_path):
    (source,), first, second = way_waves(SETTINGS["small"], "data", tmp_path)
    few = [*first, *second]
    assert {run.name for run in few} == {*WAYS, *SWINS}
    assert len({run.key for run in few}) == len(few) == 3 * (len(WAYS) + len(SWINS))
    assert all(not set(run.classes) & set(source.classes) for run in few)
    assert {(run.pictures, run.epochs, run.learning_rate) for run in few} == {(5000, 12, 1e-3)}
    made = {str(tmp_path / f"{run.key}.keras") for run in (source, *first) if run.saved}
    asked = {run.warm_start or run.teacher for run in few} - {None}
    assert asked <= made


def test_fewer_pictures_are_seen_more_often(tmp_path):
    """In about as many steps; each student's teacher has seen its pictures alone."""
    (source,), first, second = fewer_waves(SETTINGS["small"], "data", tmp_path)
    few = [*first, *second]
    assert {run.name for run in few} == {f"{n}_{count}" for n in OF_FEWER for count in (100, 1000)}
    assert len({run.key for run in few}) == len(few) == 3 * 2 * len(OF_FEWER)
    assert {run.pictures * run.passes // run.batch_size for run in few} == {50, 60}
    assert all(run.pictures % BATCH_OF_FEWER == 0 for run in few)
    teachers = {str(tmp_path / f"{r.key}.keras"): (r.pictures, r.seed) for r in first if r.saved}
    for run in second:
        assert teachers[run.teacher] == (run.pictures, run.seed)
    begun = {run.warm_start or run.weights for run in few} - {None}
    assert begun == {str(tmp_path / f"{source.key}.keras")}


def test_the_second_swin_has_as_many_seconds(tmp_path):
    seconds = {"sepvit": 120, "swin": 80}
    waves = network_waves(
        SETTINGS["small"], "data", lambda key: {"seconds": [1, seconds[key.split("-")[0]]]}
    )
    first, second = waves
    longer = [run for run in second if run.name == EQUAL_SECONDS]
    assert {(run.network, run.epochs) for run in longer} == {("swin", 18)} and len(longer) == 3
    others = [run for run in (*first, *second) if run not in longer]
    assert {run.name for run in others} == set(TITLES) and len(others) == 3 * len(TITLES)
    assert {run.epochs for run in others} == {12}


def result_of(name, seed, top1, **changes):
    run = {"name": name, "seed": seed, "epochs": len(top1), **changes}
    seconds = [10.0 * (epoch + 1) for epoch in range(len(top1))]
    return {
        **{"run": run, "top1": top1, "seconds": seconds, "parameters": 1.5e6, "macs": 2e6},
        **{"commit": "abc", "backend": "tensorflow", "loss": [1.0] * len(top1), "report": None},
    }


def test_a_way_is_advertised_only_if_it_is_ahead_in_every_seed():
    scratch = [result_of("scratch", seed, [30.0, 40.0 + seed]) for seed in range(3)]
    better = [result_of("warm", seed, [30.0, 43.0 + seed]) for seed in range(3)]
    mixed = [result_of("both", seed, [30.0, 50.0 - 4 * seed]) for seed in range(3)]
    assert report.way_row(WAYS["warm"], better, scratch) == [
        *(WAYS["warm"], "43.0", "44.0", "45.0", "+3.0 (+3.0 to +3.0)", "yes")
    ]
    assert report.way_row(WAYS["both"], mixed, scratch)[-2:] == ["+5.0 (+0.0 to +10.0)", "no"]
    assert report.way_row(WAYS["scratch"], scratch, scratch)[-2:] == ["", ""]
    assert report.way_row(SWINS["swin"], better, scratch)[-2:] == ["+3.0 (+3.0 to +3.0)", ""]


def test_the_page_gets_tables_and_pictures(tmp_path):
    folder, docs = tmp_path / "runs", tmp_path / "docs"
    folder.mkdir(), docs.mkdir()
    parts = ("networks", "ways", "fewer", "networks-large")
    marks = "".join(f"<!-- learning-{p} -->\n<!-- end of learning-{p} -->\n" for p in parts)
    (docs / "learning.md").write_text(marks)
    machine = {
        **{"processor": "P", "available_cores": 2, "cores": 2, "instructions": [], "gpu": None},
        **{"memory_gib": 1.0, "system": "S", "python": "3", "versions": {}},
    }
    made = {"machine": machine, "setting": "small", "gpu": False}
    (folder / "made.json").write_text(json.dumps(made))
    for name in (*TITLES, EQUAL_SECONDS, *WAYS, *SWINS, "source"):
        for seed in range(2):
            result = result_of(name, seed, [30.0, 40.0 + seed + len(name)])
            (folder / f"{name}-{seed}.json").write_text(json.dumps(result))
    fewer = tmp_path / "fewer"
    shutil.copytree(folder, fewer)
    for name, count, seed in itertools.product(OF_FEWER, (100, 1000), range(2)):
        top1 = [30.0, 60.0 + seed + len(name) - 1000 / count]
        changes = {"passes": 1000 // count, "batch_size": 50}
        result = result_of(f"{name}_{count}", seed, top1, **changes)
        (fewer / f"{name}_{count}-{seed}.json").write_text(json.dumps(result))
    setting = types.SimpleNamespace(**{**vars(SETTINGS["small"]), "seeds": 2})
    report.write_networks(folder, docs, setting)
    report.write_ways(folder, docs, setting)
    report.write_fewer(fewer, docs, setting)
    for path in folder.glob("no_peg-*"):
        path.unlink()
    large = {**made, "setting": "large", "gpu": True}
    (folder / "made.json").write_text(json.dumps(large))
    report.write_networks(folder, docs, setting)
    text = (docs / "learning.md").read_text()
    assert "--part networks --setting large --gpu`" in text and "| seconds of the GPU |" in text
    assert "batches of 64. Not run: SepViT without PEG.\n" in text
    assert text.count("Commit abc. Command: `python benchmarks/learning.py") == 4
    assert "| SepViT | 2 | 1.50 | 2.00 | 46.5 (46.0 to 47.0) |  | 20 |" in text
    assert (
        "| Swin (KerasHub) | 2 | 1.50 | 2.00 | 44.5 (44.0 to 45.0) | +2.0 (+2.0 to +2.0) | 20 |"
        in text
    )
    assert "in 46.0 % of the test pictures" in text and "--part ways --setting small" in text
    assert "batches of 50: 100, each seen 20 times in 40 steps; 1,000, each seen 2 times" in text
    both = WAYS["both"]
    assert f"| 100 | {both} | 54.0 | 55.0 | -3.0 (-3.0 to -3.0) | no |" in text
    assert f"| 1,000 | {both} | 63.0 | 64.0 | -3.0 (-3.0 to -3.0) | no |" in text
    for part in ("networks", "ways", "networks_large"):
        assert Image.open(docs / f"learning_{part}.png").width > 800
    (folder / "sepvit-0.json").unlink()
    with pytest.raises(SystemExit, match="has not all runs of SepViT"):
        report.write_networks(folder, docs, setting)
