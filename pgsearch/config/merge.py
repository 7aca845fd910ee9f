"""Laying one nested mapping over another: for `extends`, overrides and variants."""

import functools
from collections.abc import Mapping
from typing import Any

from pgsearch.class_groups import GROUPS


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `change` laid over it, deeply; neither is modified.

    Two rules beyond the obvious. A section that names another kind (`loss: {name: bce}` over
    `loss: {name: pg, …}`) replaces the whole section, since its other keys belong to the old kind.
    A value for some class groups (`{tail: 3}`) over a single value keeps that for the others.
    """
    result = dict(base)
    for key, new in change.items():
        old = result.get(key)
        if not isinstance(new, Mapping):
            result[key] = new
        elif isinstance(old, Mapping):
            another_kind = "name" in new and "name" in old and new["name"] != old["name"]
            result[key] = dict(new) if another_kind else merge(old, new)
        elif old is not None and new and set(new) <= set(GROUPS):
            result[key] = {**dict.fromkeys(GROUPS, old), **new}
        else:
            result[key] = merge({}, new)
    return result


def at_path(path: str, value: Any) -> dict[str, Any]:
    """Return the nested mapping that holds only `value`, at the dotted `path`."""
    head, _, rest = path.partition(".")
    return {head: at_path(rest, value) if rest else value}


def with_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested `base` with values at dotted paths."""
    return functools.reduce(
        lambda changed, path: merge(changed, at_path(path, values[path])), values, dict(base)
    )


def difference(base: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the change that `merge` lays over `base` to make `changed`, and nothing more.

    For two resolved configurations: `changed` has every key that `base` has, except in a section of
    another kind.
    """
    if base.get("name") != changed.get("name"):
        return dict(changed)
    result: dict[str, Any] = {}
    for key, new in changed.items():
        old = base.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            if inner := difference(old, new):
                result[key] = inner
        elif key not in base or new != old:
            result[key] = new
    return result
