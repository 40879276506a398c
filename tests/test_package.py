"""What `import keras_sepvit` costs, and what it promises, seen in processes of their own."""

import ast
import importlib
import inspect
import json
import os
import pathlib
import subprocess
import sys

import keras
import oldest
import pytest
from helpers import tiny_backbone

import keras_sepvit
from keras_sepvit.registration import REGISTERED

ROOT = pathlib.Path(keras_sepvit.__file__).parent


def run(code, *arguments, folder=None):
    """What the last line that the code prints says, as JSON."""
    paths = [str(path) for path in (folder, ROOT.parent) if path]
    environment = {
        **os.environ,
        "KERAS_BACKEND": keras.config.backend(),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


IMPORT_ALONE = """
import json, sys
before = set(sys.modules)
added = []
for name in ("keras_sepvit", "keras_sepvit.runtime", "keras_sepvit.cli"):
    __import__(name)
    added.append(sorted(set(sys.modules) - before))
    before = set(sys.modules)
print(json.dumps(added))
"""


def third_party(modules):
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


BELOW_THE_NETWORK = """
import json, sys
before = set(sys.modules)
import keras_sepvit.geometry, keras_sepvit.names
plain = set(sys.modules) - before
import keras_sepvit.weights
print(json.dumps([sorted(plain), sorted(sys.modules)]))
"""


@pytest.mark.once
def test_weights_names_and_geometry_stand_below_the_network():
    plain, weights = run(BELOW_THE_NETWORK)
    assert third_party(plain) == {"keras_sepvit"}
    own = {name.partition(".")[2] for name in weights if name.startswith("keras_sepvit.")}
    assert {name for name in own if not name.startswith("weights")} == {
        *("configs", "default_backend", "files", "geometry", "lazy", "names", "registration"),
        *("validation", "warn"),
    }


@pytest.mark.once
def test_import_alone_is_light():
    package, runtime, command_line = run(IMPORT_ALONE)
    assert third_party(package) == {"keras_sepvit"}
    assert third_party(runtime) == {"keras_sepvit", "numpy"}
    heavy = {"keras", "tensorflow", "jax", "torch", "h5py", "PIL", "rich"}
    assert "typer" in command_line
    assert not heavy & third_party(command_line)


IMPORT_ALL = """
import json, sys
import keras
before = set(sys.modules)
from keras_sepvit import *
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


def test_import_of_all_names_is_light():
    before, added = run(IMPORT_ALL)
    assert "keras_sepvit.classification.classifier" in added
    # Keras and the backend are loaded already: only our own modules may come on top.
    assert third_party(added) == {"keras_sepvit"}
    # Of the backends only JAX may come along with another one: libraries import it if it is there.
    assert not {"tensorflow", "torch"}.difference({keras.config.backend()}).intersection(before)


@pytest.mark.once
def test_public_names():
    """Those that run time and type checkers see are the same, and all are there."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
    ]
    imported = {
        alias.name: statement.module for statement in checked.body for alias in statement.names
    }
    assert imported == {
        name: f"keras_sepvit.{module}" for name, module in keras_sepvit._MODULES.items()
    }
    assert set(keras_sepvit.__all__) == set(imported)
    packages = {"complexity", "detection", "export", "hub", "instances"}
    packages |= {"runtime", "segmentation", "training", "weights"}
    assert set(dir(keras_sepvit)) == {*keras_sepvit.__all__, *packages, "__version__"}
    for name, module in imported.items():
        assert getattr(keras_sepvit, name) is getattr(importlib.import_module(module), name)
    assert keras_sepvit.runtime is importlib.import_module("keras_sepvit.runtime")
    for missing in ("no_such_name", "_no_such_name"):
        with pytest.raises(AttributeError, match=missing):
            getattr(keras_sepvit, missing)
    with pytest.raises(ImportError, match="no_such_name"):
        from keras_sepvit import no_such_name  # noqa: F401


@pytest.mark.once
def test_public_names_have_types():
    assert (ROOT / "py.typed").exists()
    classes = [getattr(keras_sepvit, name) for name in keras_sepvit.__all__]
    methods = ("from_variant", "freeze", "window_attention")
    functions = [*classes, *(getattr(c, m) for c in classes for m in methods if hasattr(c, m))]
    assert len(functions) > len(classes)
    for function in functions:
        signature = inspect.signature(function)
        untyped = {
            name
            for name, parameter in signature.parameters.items()
            if name != "self" and parameter.annotation is parameter.empty
        }
        assert not untyped, function
        assert inspect.isclass(function) or signature.return_annotation is not signature.empty


@pytest.mark.once
def test_every_registered_class_has_a_stand_in():
    registered = {}
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", ()):
                if 'register_keras_serializable(package="keras_sepvit")' in (
                    ast.unparse(decorator).replace("'", '"')
                ):
                    assert isinstance(node, ast.ClassDef)
                    registered[node.name] = module
    assert registered == REGISTERED


LOAD = """
import json, sys
{imports}
model = keras.saving.load_model(sys.argv[1])
names = sorted({{type(layer).__module__ for layer in model.layers}})
print(json.dumps([names, model.count_params(), len(keras_hooks())]))
"""

HOOKS = """
def keras_hooks():
    from keras_sepvit.registration import _AfterKeras
    return [finder for finder in sys.meta_path if isinstance(finder, _AfterKeras)]
"""


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "backbone.keras"
    backbone = tiny_backbone()
    # The functional form of the same layers: the file names each one's class.
    keras.Model(backbone.inputs, backbone.outputs).save(path)
    return path, backbone.count_params()


@pytest.mark.thorough
@pytest.mark.once
@pytest.mark.parametrize(
    "imports",
    [
        "import keras_sepvit\nimport keras",
        "import keras\nimport keras_sepvit",
        # Keras is imported by a module of ours, which is not ready when Keras is.
        "import keras_sepvit.layers\nfrom keras import saving\nimport keras",
    ],
)
def test_files_load_in_every_order_of_imports(backbone_file, imports):
    path, parameters = backbone_file
    code = LOAD.format(imports=imports + HOOKS)
    modules, loaded_parameters, hooks = run(code, path)
    assert {"keras_sepvit.block", "keras_sepvit.layers"} <= set(modules)
    assert loaded_parameters == parameters
    assert hooks == 0


FAKE_KERAS = """
import os, time
if os.path.exists(os.environ["BROKEN"]):
    raise ImportError("no backend")
time.sleep(0.2)
from keras import saving
"""

FAKE_SAVING = """
registry = {"other": 1}
def get_custom_objects():
    return registry
"""


@pytest.fixture
def fake_keras(tmp_path, monkeypatch):
    """A package `keras` with a registry and nothing else, whose import takes 0.2 s.

    It fails while there is a file at the path in `BROKEN`.
    """
    monkeypatch.setenv("BROKEN", str(tmp_path / "broken"))
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text(FAKE_KERAS)
    (tmp_path / "keras" / "saving.py").write_text(FAKE_SAVING)
    return tmp_path


@pytest.mark.once
@pytest.mark.parametrize(
    "imports",
    [
        "import keras_sepvit, keras",
        "import keras, keras_sepvit",
        "import keras_sepvit; from keras import saving; import keras",
        "import keras_sepvit; import keras.saving",
        # Whether Keras is there is asked before it is imported.
        "import keras_sepvit; importlib.util.find_spec('keras'); import keras",
        # Twice in front of Keras, and again behind it.
        "import keras_sepvit; importlib.reload(keras_sepvit); import keras",
        "import keras_sepvit, keras; importlib.reload(keras_sepvit)",
        # An import that fails, and one that does not.
        """
import keras_sepvit
open(os.environ["BROKEN"], "w").close()
try:
    import keras
except ImportError:
    os.remove(os.environ["BROKEN"])
import keras
""",
        # While another thread is importing it, and where several ask for it at once.
        """
thread = threading.Thread(target=importlib.import_module, args=("keras",))
thread.start()
time.sleep(0.1)
import keras_sepvit, keras
thread.join()
""",
        """
import keras_sepvit
threads = [threading.Thread(target=importlib.import_module, args=("keras",)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
import keras
""",
    ],
)
def test_stand_ins_are_registered_once_keras_is_imported(fake_keras, imports):
    code = f"""
import importlib.util, json, os, sys, threading, time
{imports}
{HOOKS}
loader = keras.__spec__.loader
plain = type(loader).__name__ == "SourceFileLoader" and "exec_module" not in vars(loader)
names = list(keras.saving.get_custom_objects())
print(json.dumps([names, plain, len(keras_hooks())]))
"""
    names, plain, hooks = run(code, folder=fake_keras)
    assert names == ["other", *(f"keras_sepvit>{name}" for name in REGISTERED)]
    assert plain
    assert hooks == 0


@pytest.mark.once
def test_every_requirement_has_a_lower_bound_that_is_tested():
    """`make test-oldest` installs what setup.cfg says, of which every package is at its lowest."""
    text = oldest.SETUP.read_text()
    found = oldest.lowest(text)
    assert len(found) == len({line.partition("==")[0] for line in found})
    assert "typer==0.16" in found and "keras-hub==0.32" in found  # `[grain]` is no part of it
    assert "typer==0.17.1" in oldest.lowest(text.replace("typer>=0.16,", "typer>=0.17.1,"))
    with pytest.raises(ValueError, match="no lower bound in 'typer<0.30'"):
        oldest.lowest(text.replace("typer>=0.16,<0.30", "typer<0.30"))
    before, _, after = text.rpartition("matplotlib>=3.8")  # which two extras have
    with pytest.raises(ValueError, match="matplotlib has the lower bounds 3.8 and 3.9"):
        oldest.lowest(f"{before}matplotlib>=3.9{after}")
