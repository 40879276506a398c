"""Fixtures of the suite. `KERAS_BACKEND` decides the backend of a run."""

import gc
import os
import tempfile

import pytest

XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def pytest_configure(config):
    """Gives each process its own core, and makes XLA compile fast.

    Processes that share the suite would wait for one another's threads: PyTorch is several
    times slower then. Most of the suite's time on JAX, and much on TensorFlow, would go into
    compiling: programs are not optimised, and JAX's are compiled once in a run. The variables
    must be set before a backend is imported.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        for variable in ONE_THREAD:
            os.environ.setdefault(variable, "1")
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    if os.environ.get("KERAS_BACKEND") != "jax":
        return
    folder = tempfile.TemporaryDirectory(prefix="keras_sepvit_jax_")
    config.add_cleanup(folder.cleanup)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def pytest_collection_finish():
    """Leaves the libraries' objects out of garbage collection, which Keras calls often.

    Quantising a small model spent most of its time on them.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header():
    import keras

    return f"keras {keras.__version__} on {keras.config.backend()}"


# Files that take longest, first, so that no worker is left with one of them at the end.
LONGEST = (
    "test_distribution.py",
    "test_benchmark_learning.py",
    "test_detection.py",
    "test_detector_files.py",
    "test_detection_training.py",
    "test_distillation.py",
    "test_battery.py",
    "test_trainer.py",
    "test_segmenter_files.py",
    "test_instance_training.py",
    "test_segmentation_training.py",
    "test_segmentation.py",
    "test_mask_rcnn.py",
    "test_hub_keras_cv.py",
    "test_hub_detectors.py",
    "test_training_data.py",
    "test_weights.py",
)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    import keras

    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    backend = keras.config.backend()
    for item in items:
        chosen = item.get_closest_marker("by_default_on")
        if chosen is not None and backend not in chosen.args:
            item.add_marker("thorough")
        once = item.get_closest_marker("once")
        if once is not None:
            where = once.args[0] if once.args else "torch"
            if backend != where:
                item.add_marker(pytest.mark.skip(reason=f"runs with KERAS_BACKEND={where} alone"))


@pytest.fixture(autouse=True)
def seeded_and_restored():
    """Seeds each test, and puts Keras's global settings back after it."""
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_not_collected():
    """Leaves what a module leaves behind, such as TensorFlow's graphs, out of collection, too."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random classifier and its `.weights.h5` file."""
    from weights_helpers import classifier, save_h5

    model = classifier(seed=7)
    return model, save_h5(model, tmp_path_factory.mktemp("source") / "tiny.weights.h5")


@pytest.fixture(scope="module")
def untouched():
    """A random classifier that no file may change."""
    from weights_helpers import classifier

    return classifier(seed=9)
