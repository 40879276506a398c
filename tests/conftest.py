"""Fixtures of the suite. `KERAS_BACKEND` decides the backend of a run."""

import keras
import pytest


def pytest_report_header():
    return f"keras {keras.__version__} on {keras.config.backend()}"


def pytest_collection_modifyitems(items):
    if keras.config.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason="involves no backend; runs under TensorFlow only")
    for item in items:
        if "once" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seeded_and_restored():
    """Seeds each test, and puts Keras's global settings back after it."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
