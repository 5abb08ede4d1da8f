"""Make a model from MODULE:FACTORY: `my_package.models:Net`, `my_models.py:make(width=8)`, `torchvision.models:alexnet(num_classes=10)`."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from parity.errors import InputError

FORM = "MODULE:FACTORY, FILE.py:FACTORY or MODULE:FACTORY(name=value)"


def parse(text: str) -> tuple[str, ast.expr]:
    """Parse `text` into module or file, and a name or call; `InputError` unless it has this form.

    A value is plain, or the call of another factory of the same module, as in `transformers:BertModel(BertConfig(hidden_size=8))`.
    """
    place, colon, call = text.rpartition(":") if "(" not in text else text.partition(":")
    try:
        tree = ast.parse(call.strip(), mode="eval").body
        for one in _calls(tree):
            for value in _values(one):
                if not isinstance(value, ast.Call):
                    ast.literal_eval(value)
    except (SyntaxError, ValueError):
        raise InputError(f"{text!r} is not {FORM}, with plain values") from None
    names = [_function(one) for one in (tree, *_calls(tree))]
    if not colon or not place or not all(part.isidentifier() for name in names for part in name.split(".")):
        raise InputError(f"{text!r} is not {FORM}")
    return place, tree


def _calls(tree: ast.expr) -> Iterator[ast.Call]:
    """Yield a call, and the calls among its values."""
    if isinstance(tree, ast.Call):
        yield tree
        for value in _values(tree):
            yield from _calls(value)


def _values(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(one.value for one in call.keywords)]


def _function(tree: ast.expr) -> str:
    return ast.unparse(tree.func if isinstance(tree, ast.Call) else tree)


def load_model(text: str, folder: str) -> Any:
    """Import the module of `text`, also from `folder`; return the named object, or a function that makes the call of `text`.

    This runs the module's code. `folder` is searched last, so that no file there hides an installed package. `InputError` for a name
    that the module does not have.
    """
    tree, value = _load(text, folder)
    return (lambda: value(tree)) if isinstance(tree, ast.Call) else value(tree)


def load_call(text: str, folder: str) -> tuple[Any, list[Any], dict[str, Any]]:
    """Import the module of `text` as `load_model` does; return the named object, and the arguments and values that `text` calls it with."""
    tree, value = _load(text, folder)
    if not isinstance(tree, ast.Call):
        return value(tree), [], {}
    named = {str(one.arg): value(one.value) for one in tree.keywords}
    return value(tree.func), [value(one) for one in tree.args], named


def _load(text: str, folder: str) -> tuple[ast.expr, Callable[[ast.expr], Any]]:
    """Import the module of `text`; return the expression of `text`, and a function that evaluates a part of it."""
    place, tree = parse(text)
    module = _module(place, folder)
    found = {}
    for name in {_function(one) for one in (tree, *_calls(tree))}:
        found[name] = module
        for part in name.split("."):
            if not hasattr(found[name], part):
                where = getattr(sys.modules.get(place), "__file__", None)
                raise InputError(f"{place}{f' ({where})' if where else ''} has no {part!r}: {text!r} should be {FORM}")
            found[name] = getattr(found[name], part)

    def value(tree: ast.expr) -> Any:
        if not isinstance(tree, ast.Call):
            return found[_function(tree)] if _function(tree) in found else ast.literal_eval(tree)
        named = {str(one.arg): value(one.value) for one in tree.keywords}
        return found[_function(tree)](*map(value, tree.args), **named)

    return tree, value


class _Folder:
    """Finds modules in a folder.

    It is the last finder, not the last entry of `sys.path`: an import of setuptools, as by Paddle, appends the folder of the packages
    that it brings along to that path.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [self.folder]) if path is None else None


def _search_last(folder: str) -> None:
    if not any(isinstance(finder, _Folder) and finder.folder == folder for finder in sys.meta_path):
        sys.meta_path.append(_Folder(folder))


def _module(place: str, folder: str) -> Any:
    _search_last(folder)
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name and (place == error.name or place.startswith(error.name + ".")):
                raise InputError(f"there is no module {place!r} in {folder} or the environment") from None
            raise
    path = Path(folder) / place
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    _search_last(str(path.parent))
    name = path.stem
    while name in sys.modules and getattr(sys.modules[name], "__file__", None) != str(path):
        name = f"file_{name}"  # a package or another file of this name is loaded, as for a file copy.py
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def library_version(text: str) -> dict[str, str]:
    """Return the name and the version of the installed package that a factory's module belongs to; empty for a file."""
    place = parse(text)[0]
    if place.endswith(".py"):
        return {}
    name = place.partition(".")[0]
    try:
        return {name: importlib.metadata.version(name)}
    except importlib.metadata.PackageNotFoundError:
        return {}


def text_of(factory: Any) -> str:
    """Return the name of a factory for messages: its text, or MODULE:CLASS of a model, a class or a function."""
    if isinstance(factory, str):
        return factory
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{named.__module__}:{named.__qualname__}"
