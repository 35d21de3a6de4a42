"""The surveys by name: one line for each of ours, an entry point for those of other packages."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from pipeline.errors import ConfigError, RefusedError
from pipeline.surveys.survey import Survey

ENTRY_POINTS = "spender_pipeline.surveys"
"""Group of entry points by which other packages add surveys: `name = "package.module:SURVEY"`."""

_HOMES = {
    "sdss": "pipeline.surveys.sdss.survey:SDSS",
    "desi": "pipeline.surveys.desi.survey:DESI",
}

DEFAULT = "sdss"


@cache
def get_survey(name: str) -> Survey:
    """Return the survey of that name, imported when first asked for. Raises ConfigError, naming the choices."""
    if name in _HOMES:
        module, attribute = _HOMES[name].split(":")
        found: Survey = getattr(import_module(module), attribute)
        return found
    others = _of_other_packages()
    if name not in others:
        known = ", ".join(sorted({*_HOMES, *others}))
        raise ConfigError("survey", name, f"one of {known}", "install the package that brings it, or choose another")
    try:
        loaded = others[name].load()
    except Exception as error:  # whatever another package's import raises
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("survey", name, f"a survey that can be imported from {others[name].value}", reason) from error
    if not isinstance(loaded, Survey):
        problem = f"{others[name].value}, registered as the survey {name!r}, is a {type(loaded).__name__}, not a Survey"
        raise RefusedError("survey", problem, "correct the package's entry point")
    return loaded


def installed_surveys() -> list[Survey]:
    """Return all surveys, ours first; those of other packages that cannot be imported are left out."""
    found = [get_survey(name) for name in _HOMES]
    for name in sorted(_of_other_packages()):
        if name not in _HOMES:
            with suppress(ConfigError):
                found.append(get_survey(name))
    return found


def _of_other_packages() -> dict[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=ENTRY_POINTS)}
