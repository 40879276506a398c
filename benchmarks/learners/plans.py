"""Which runs an experiment has, in waves: a wave needs results of those before it."""

import dataclasses
import statistics

from learners.networks import TITLES
from learners.runs import Run

# Networks beside each other, all by one recipe. The second again, for as many seconds as the first.
COMPARED = ("sepvit", "swin")
EQUAL_SECONDS = "swin_equal_seconds"

# CIFAR-10's classes in two halves: of the Swin to begin from, and of what begins.
ODD = (1, 3, 5, 7, 9)
EVEN = (0, 2, 4, 6, 8)

# Ways to begin, from a Swin that has seen other classes.
SOURCE = "source"
WAYS = {
    "scratch": "(a) SepViT from random weights",
    "warm": "(b) SepViT, warm start from that Swin",
    "mlp_norms": "(c) SepViT, its MLPs and norms alone",
    "taught": "(d) SepViT, taught by that Swin fine-tuned",
    "both": "(e) SepViT, warm start and teacher",
    "own": "(f) SepViT, warm start from a Swin trained on the same pictures",
}
# What they are compared with.
SWINS = {
    "swin": "Swin from random weights",
    "fine_tuned": "that Swin fine-tuned: the ceiling",
}
# Those of both that are tried on fewer pictures, too. Batches divide all numbers of pictures.
OF_FEWER = ("scratch", "warm", "taught", "both", "fine_tuned")
BATCH_OF_FEWER = 50


@dataclasses.dataclass(frozen=True)
class Setting:
    """How large an experiment is; see `Run`.

    Attributes:
        pictures, epochs: Of the comparison of networks.
        few, few_epochs: Pictures and epochs of the ways to begin.
        source: Pictures that the Swin to begin from has seen, in `epochs` epochs.
        fewer: Numbers of pictures that the ways are tried on, too, each with the passes over them
            in one of `few_epochs` epochs.
        batch_size, learning_rate, drop_path_rate, image_size: Of all runs.
        seeds: Number of seeds.
    """

    pictures: int
    epochs: int
    few: int
    few_epochs: int
    source: int
    fewer: dict
    batch_size: int = 64
    learning_rate: float = 1e-3
    drop_path_rate: float = 0.0
    image_size: int = 32
    seeds: int = 3


FEWER = {100: 25, 1000: 3}

SETTINGS = {
    "small": Setting(pictures=8000, epochs=12, few=5000, few_epochs=12, source=20_000, fewer=FEWER),
    "large": Setting(
        pictures=50_000,
        epochs=20,
        few=5000,
        few_epochs=60,
        source=25_000,
        fewer=FEWER,
        batch_size=512,
        learning_rate=2e-3,
        drop_path_rate=0.1,
        image_size=64,
    ),
    # To see that everything runs.
    "tiny": Setting(
        pictures=640, epochs=2, few=640, few_epochs=2, source=640, fewer={100: 2}, seeds=2
    ),
}


def network_waves(setting, data, results):
    """Waves of the comparison of networks.

    Args:
        setting: A `Setting`.
        data: Folder of CIFAR-10.
        results: Function from a run's key to what it left, for waves after the first.

    Yields:
        Lists of `Run`s.
    """
    size = {"pictures": setting.pictures, "epochs": setting.epochs, **_common(setting, data)}
    seeds = range(setting.seeds)
    # The comparison first: the others may be left out where time is short.
    compared = [Run(name, name, seed, **size) for seed in seeds for name in COMPARED]
    yield compared

    def seconds(name):
        own = [results(run.key)["seconds"][-1] for run in compared if run.name == name]
        return statistics.median(own)

    epochs = max(round(setting.epochs * seconds("sepvit") / seconds("swin")), 1)
    longer = [
        dataclasses.replace(run, name=EQUAL_SECONDS, epochs=epochs)
        for run in compared
        if run.name == "swin"
    ]
    others = [name for name in TITLES if name not in COMPARED]
    yield longer + [Run(name, name, seed, **size) for seed in seeds for name in others]


def way_waves(setting, data, folder):
    """Waves of the experiment on ways to begin; arguments as for `network_waves`."""
    common = _common(setting, data)
    source = _source(setting, common)
    yield [source]
    few = {"classes": EVEN, "pictures": setting.few, "epochs": setting.few_epochs, **common}
    first, second = [], []
    for seed in range(setting.seeds):
        ways = _ways(seed, folder, few)
        own = str(folder / f"swin-{seed}.keras")
        first += [
            ways["fine_tuned"],
            Run("swin", "swin", seed, saved=True, **few),
            ways["scratch"],
            ways["warm"],
            dataclasses.replace(ways["warm"], name="mlp_norms", parts=("mlp", "norms")),
        ]
        second += [
            ways["taught"],
            ways["both"],
            Run("own", "sepvit", seed, warm_start=own, **few),
        ]
    yield first
    yield second


def fewer_waves(setting, data, folder):
    """Waves of the ways to begin with fewer pictures; arguments as for `network_waves`."""
    common = _common(setting, data)
    yield [_source(setting, common)]
    first, second = [], []
    for pictures, passes in setting.fewer.items():
        few = {"classes": EVEN, "pictures": pictures, "epochs": setting.few_epochs, **common}
        few |= {"passes": passes, "batch_size": BATCH_OF_FEWER}
        for seed in range(setting.seeds):
            ways = _ways(seed, folder, few, suffix=f"_{pictures}")
            first += [ways["fine_tuned"], ways["scratch"], ways["warm"]]
            second += [ways["taught"], ways["both"]]
    yield first
    yield second


def _source(setting, common):
    """The Swin to begin from."""
    return Run(
        SOURCE,
        "swin",
        0,
        classes=ODD,
        pictures=setting.source,
        epochs=setting.epochs,
        saved=True,
        **common,
    )


def _ways(seed, folder, few, suffix=""):
    """Runs of one seed by the names of `OF_FEWER`; the suffix is that of their arms' names."""
    begun = str(folder / f"{SOURCE}-0.keras")
    teacher = str(folder / f"fine_tuned{suffix}-{seed}.keras")
    runs = (
        Run("fine_tuned", "swin", seed, weights=begun, saved=True, **few),
        Run("scratch", "sepvit", seed, **few),
        Run("warm", "sepvit", seed, warm_start=begun, **few),
        Run("taught", "sepvit", seed, teacher=teacher, **few),
        Run("both", "sepvit", seed, warm_start=begun, teacher=teacher, **few),
    )
    return {run.name: dataclasses.replace(run, name=run.name + suffix) for run in runs}


def _common(setting, data):
    names = ("batch_size", "learning_rate", "drop_path_rate", "image_size")
    return {"data": data, **{name: getattr(setting, name) for name in names}}
