"""Recipes as YAML files, and changes to them, `key=value`, which OmegaConf reads and checks."""

import functools
import types
import typing

from keras_sepvit.files import replacing
from keras_sepvit.training.recipe import flat
from keras_sepvit.validation import did_you_mean

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_KINDS[types.NoneType] = "null"


def changed_recipe(recipe, settings=None, overrides=(), name=None):
    """A recipe with changes.

    Args:
        recipe: The `Recipe` to begin with.
        settings: Nested dict of changes, as from YAML.
        overrides: Changes as `"key=value"`, such as `"optimizer.learning_rate=5e-4"`. Text is
            taken as it is typed, `null` for none; other values are YAML.
        name: What to call it in errors.

    Returns:
        A new `Recipe` of the same class, checked.

    Raises:
        ValueError: for unknown keys, values of a wrong type or out of range, and values that a
            recipe leaves to the user and are not given.
    """
    omegaconf = _omegaconf()
    merged = omegaconf.OmegaConf.structured(recipe)
    changes = [*flat(settings or {}), *map(functools.partial(_parsed, recipe), overrides)]
    for key, value in changes:
        _change(merged, recipe, name, key, value)
    try:
        missing = sorted(omegaconf.OmegaConf.missing_keys(merged))
        if missing:
            hint = ""
            if "model.weights" in missing and merged.model.get("warm_start"):
                hint = " With model.warm_start it is model.weights=null."
            raise ValueError(
                f"The recipe {name!r} leaves {', '.join(missing)} to you. Add "
                f"{' '.join(f'{key}=VALUE' for key in missing)}.{hint}"
            )
        changed = omegaconf.OmegaConf.to_object(merged)
    except omegaconf.errors.OmegaConfBaseException as error:  # of an interpolation
        raise ValueError(f"The recipe {name!r} cannot be used: {error}") from error
    changed.check()
    return changed


def read_settings(path):
    """The nested dict in a YAML file of a recipe.

    Raises:
        ValueError: if it is no YAML, and no mapping.
    """
    omega = _omegaconf().OmegaConf
    import yaml  # OmegaConf's

    try:
        loaded = omega.load(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{path}' is no recipe: it is no text. Pictures are trained on as a folder with one "
            "folder a class; unpack an archive first."
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"The recipe '{path}' is no YAML: {error}") from error
    if not omega.is_dict(loaded):
        raise ValueError(f"The recipe '{path}' must be a YAML mapping of settings to values.")
    return omega.to_container(loaded)


def read_recipe(path, recipe_class):
    """The recipe that `save_recipe` wrote."""
    return changed_recipe(recipe_class(), read_settings(path), name=str(path))


def save_recipe(recipe, path):
    """Writes a recipe as YAML, which `load_recipe` reads."""
    omega = _omegaconf().OmegaConf
    with replacing(path) as temporary:
        omega.save(omega.structured(recipe), temporary)


def recipe_yaml(recipe):
    """A recipe as YAML text."""
    omega = _omegaconf().OmegaConf
    return omega.to_yaml(omega.structured(recipe))


def recipe_keys(recipe):
    """The keys of a recipe, such as `optimizer.learning_rate`."""
    return [key for key, _ in flat(recipe)]


def _omegaconf():
    try:
        import omegaconf
    except ImportError as error:
        raise ImportError(
            'Training needs OmegaConf. Install it with: pip install "keras-sepvit[train]"'
        ) from error
    return omegaconf


def _parsed(recipe, text):
    """The (key, value) pair of a change that was typed, `"key=value"`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(
            f"A change to a recipe is written key=value. Received: {text!r}. Keys are those of the "
            "recipe, such as optimizer.learning_rate."
        )
    kinds = _kinds(_type_of(recipe, key))
    if str in kinds:
        none = types.NoneType in kinds and value in ("", "null")
        # A dollar and a brace would be an interpolation of OmegaConf's.
        return key, None if none else value.replace("${", r"\${")
    import yaml  # OmegaConf's

    omega = _omegaconf().OmegaConf
    try:
        return key, omega.to_container(omega.from_dotlist([f"value={value}"]))["value"]
    except yaml.YAMLError as error:
        raise ValueError(f"{key} cannot have this value. Received: {text!r}.") from error


def _change(merged, recipe, name, key, value):
    """Sets a key of the OmegaConf form of a recipe."""
    known = recipe_keys(recipe)
    if key not in known:
        below = [other for other in known if other.startswith(f"{key}.")]
        beside = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
        what = "is a group of keys" if below else "is no key"
        meant = "" if below else did_you_mean(key, known, mark="")
        raise ValueError(
            f"{key} {what} of the recipe {name!r}.{meant} Keys: "
            f"{', '.join(below or beside or known)}."
        )
    omegaconf = _omegaconf()
    try:
        omegaconf.OmegaConf.update(merged, key, value)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise ValueError(
            f"{key} must be {_expected(_type_of(recipe, key))}. Received: {key}={value}."
        ) from error


def _type_of(recipe, key):
    """The type of a recipe's key as annotated; None where there is no such key."""
    *parents, name = key.split(".")
    for parent in parents:
        recipe = getattr(recipe, parent, None)
    return typing.get_type_hints(type(recipe)).get(name)


def _kinds(annotation):
    """The types that a type hint such as `int | None` allows."""
    union = isinstance(annotation, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _expected(annotation):
    """A type hint in words."""
    return " or ".join(map(_kind_in_words, _kinds(annotation)))


def _kind_in_words(kind):
    if typing.get_origin(kind) is not tuple:
        return _KINDS[kind]
    items = typing.get_args(kind)
    if str in items:
        return "a list of words, such as [norm,peg]"
    count = "" if Ellipsis in items else f"{len(items)} "
    some = "whole numbers, such as [512, 512]" if int in items else "numbers, such as [0.5, 1]"
    return f"a list of {count}{some}"
