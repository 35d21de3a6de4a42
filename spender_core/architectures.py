"""Architectures by name: the default one, those registered here, and those that installed packages bring.

A package brings one by an entry point in its pyproject.toml, whose name is the class's `architecture`:

    [project.entry-points."spender_core.architectures"]
    my-architecture = "my_package:MyModel"

Every process that loads such a model needs the package, workers too.
"""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .autoencoder import SpectrumAutoencoder
from .model import SpectrumModel

GROUP = "spender_core.architectures"
DEFAULT = SpectrumAutoencoder.architecture
"""The architecture of checkpoints that name none."""

_registered: dict[str, type[SpectrumModel]] = {DEFAULT: SpectrumAutoencoder}

M = TypeVar("M", bound=SpectrumModel)


def register(architecture: type[M]) -> type[M]:
    """Make an architecture known by its name and return it; also a class decorator.

    A class that is defined again, as in a notebook, replaces the earlier one. ValueError for a name that another class
    has.
    """
    name = architecture.architecture
    known = _registered.get(name, architecture)
    if (known.__module__, known.__qualname__) != (architecture.__module__, architecture.__qualname__):
        raise ValueError(f"architecture {name!r} is already {_place(known)}: give {_place(architecture)} another name")
    _registered[name] = architecture
    return architecture


def architectures() -> list[str]:
    """Names of all architectures that are registered or come with an installed package, sorted."""
    return sorted({*_registered, *entry_points(group=GROUP).names})


def get_architecture(name: str) -> type[SpectrumModel]:
    """Class of an architecture. A package that brings one is imported the first time that its name is asked for.

    ValueError for an unknown name, listing the known ones, and for an entry point that cannot be imported or is not a
    `SpectrumModel` of that name.
    """
    if name not in _registered:
        found = entry_points(group=GROUP, name=name)
        if not found:
            raise ValueError(
                f"architecture {name!r} is not known here, only {', '.join(architectures())}:"
                " install the package that brings it, for workers too"
            )
        places = sorted({entry.value for entry in found})
        if len(places) > 1:
            raise ValueError(f"architecture {name!r} is in several places, {', '.join(places)}: uninstall all but one")
        register(_load(next(iter(found))))
    return _registered[name]


def describe(model: SpectrumModel) -> dict[str, Any]:
    """Entries of a checkpoint from which `load_model` builds the model again: architecture and arguments.

    ValueError for an architecture that is not known, or arguments that JSON cannot hold.
    """
    get_architecture(model.architecture)
    arguments = model.arguments
    try:
        plain = json.loads(json.dumps(arguments, allow_nan=False)) == arguments
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise ValueError(f"architecture {model.architecture!r} has arguments {arguments}, expected what JSON can hold")
    return {"architecture": model.architecture, "arguments": arguments}


def _load(entry: EntryPoint) -> type[SpectrumModel]:
    try:
        found = entry.load()
    except Exception as error:  # whatever a package's import raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"architecture {entry.name!r} cannot be imported from {entry.value}: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, SpectrumModel)):
        raise ValueError(f"architecture {entry.name!r}: {entry.value} is {found!r}, expected a SpectrumModel")
    named = getattr(found, "architecture", None)
    if named != entry.name:
        raise ValueError(
            f"{entry.value} calls its architecture {named!r}, its entry point is named {entry.name!r}: name both alike"
        )
    return found


def _place(architecture: type[SpectrumModel]) -> str:
    return f"{architecture.__module__}:{architecture.__qualname__}"
