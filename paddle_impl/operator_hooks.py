"""Hooks that see what operators return."""

# DIFFERS: the framework has no hooks for operators. `replaced_functions` replaces each operator by a hooked one.
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Hook = Callable[[str, Sequence[Any], Any], None]
"""Gets the name of an operator, its arguments, and what it returns."""

_HOOKS: list[Hook] = []


@contextlib.contextmanager
def operator_hook(hook: Hook) -> Iterator[None]:
    """A context in which `hook` sees what hooked operators return."""
    _HOOKS.append(hook)
    try:
        yield
    finally:
        _HOOKS.remove(hook)


def hooked(name: str, operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator `name`, seen by hooks."""

    def seen(*given: Any, **named: Any) -> Any:
        result = operator(*given, **named)
        for hook in _HOOKS:
            hook(name, [*given, *named.values()], result)
        return result

    return seen
