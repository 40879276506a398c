"""What `import keras_sepvit` costs, seen in a process of its own."""

import json
import os
import subprocess
import sys

import keras

IMPORT = """
import json, sys
import keras
before = set(sys.modules)
import keras_sepvit
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


def test_import_is_light():
    backend = keras.config.backend()
    output = subprocess.run(
        [sys.executable, "-c", IMPORT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    ).stdout
    before, added = json.loads(output.splitlines()[-1])
    assert "keras_sepvit" in added
    # Keras and the backend are loaded already: only our own modules may come on top.
    third_party = {name.partition(".")[0] for name in added} - sys.stdlib_module_names
    assert third_party == {"keras_sepvit"}
    # Of the backends only JAX may come along with another one: libraries import it if it is there.
    assert not {"tensorflow", "torch"}.difference({backend}).intersection(before)
