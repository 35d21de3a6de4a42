"""What a user asks for: frozen dataclasses, read from TOML or flags, validated once, without I/O."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import ConfigError, RefusedError, require_place

MAX_CONCURRENCY = 100  # connections that fsspec's HTTP client opens at once
_RELEASE = re.compile(r"(?<![a-z0-9])(e?dr\d+)(?![a-z0-9])", re.IGNORECASE)
_PREFIX = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(/(?!\.{0,2}(/|\Z))[^/?#:@\s]+)*\Z")
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+(/[^?#@\s]*)?\Z")
_CREDENTIAL = re.compile(r"key|secret|token|passw|pwd|credential|auth", re.IGNORECASE)
_IN_ENVIRONMENT = "give credentials by the AWS variables or a profile, not in this file, which is copied into plan.json"


def release_of(url: str) -> str:
    """Return the data release named in a source URL ("dr17"), or "" when it names none."""
    found = _RELEASE.findall(url)
    return found[-1].lower() if found else ""


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How the objects below a URL prefix are reached, where that differs from what the environment says.

    prefix: s3:// URL of a bucket or a folder in it. endpoint: URL of the server; None: the environment's.
    profile: of the AWS configuration files. anonymous: send no credentials. requester_pays: pay for what is read.
    path_style: name the bucket in the URL's path (True) or in its host name (False); None: botocore's choice.
    """

    prefix: str
    endpoint: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    path_style: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", self.prefix.rstrip("/"))
        if not _PREFIX.match(self.prefix):
            raise ConfigError("storage", self.prefix, 'one table per URL, such as [storage."s3://bucket"]')
        key = f"storage.{self.prefix}"
        if self.endpoint is not None and not (isinstance(self.endpoint, str) and _ENDPOINT.match(self.endpoint)):
            raise ConfigError(f"{key}.endpoint", self.endpoint, "a URL such as https://s3.example.org", _IN_ENVIRONMENT)
        if self.profile is not None:
            require_text(f"{key}.profile", self.profile, "the name of an AWS profile", "")
        for name in ("anonymous", "requester_pays", "path_style"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "path_style" and value is None):
                raise ConfigError(f"{key}.{name}", value, "true or false")
        if self.anonymous and (self.profile is not None or self.requester_pays):
            other = "profile" if self.profile is not None else "requester_pays"
            raise ConfigError(f"{key}.anonymous", True, f"no {other} with it", f"{other} needs an identity")

    def covers(self, url: str) -> bool:
        """Tell whether a URL is the prefix or lies below it, by whole parts of the path."""
        return f"{url.rstrip('/')}/".startswith(f"{self.prefix}/")

    @classmethod
    def from_dict(cls, prefix: str, values: object) -> Self:
        """Build one table's configuration. Raises ConfigError for unknown keys, most of all for credentials."""
        if not isinstance(values, Mapping):
            expected = 'one table per URL, such as [storage."s3://bucket"]'
            raise ConfigError("storage", prefix, expected, _IN_ENVIRONMENT)
        checked = checked_keys(cls, {**values, "prefix": prefix}, f"storage.{prefix}")
        if "prefix" in values:
            raise ConfigError(
                f"storage.{prefix}.prefix", values["prefix"], "no such key", "the table's name is the prefix"
            )
        return cls(**checked)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings given, as JSON-ready values."""
        fields = [field for field in dataclasses.fields(self) if field.name != "prefix"]
        return {each.name: getattr(self, each.name) for each in fields if getattr(self, each.name) != each.default}


@dataclass(frozen=True, kw_only=True)
class SurveyConfig:
    """Where a survey's spectra come from and how they are laid out in the store.

    source: release root, the folder that holds `sdss/` and `eboss/` (any fsspec URL).
    targets: URL of the table of targets, which the plan copies.
    survey, layout, instrument: names of a survey, of the way in which its source arranges the files, and of the
    wavelength grid; a plan refuses those that are not known.
    release: data release, for the provenance; read from `source` when empty.
    shard, chunk: spectra per task and per inner chunk; None lets the plan choose. expect: spectra that the run will
    grow to, which sizes both; None: those that it begins with.
    concurrency: files in flight per task; None: 64 over the network, 8 from a disk.
    max_requests: files in flight of the whole run. max_requests_per_second: that it starts; None: no limit.
    retries: attempts after a transient fault. cache: URL of a folder or bucket that is looked in before the source
    and filled with what is fetched. storage: how buckets are reached that the environment alone does not lead to.
    """

    source: str
    targets: str
    survey: str = "sdss"
    layout: str = "spec-lite"
    instrument: str = "sdss"
    release: str = ""
    shard: int | None = None
    chunk: int | None = None
    expect: int | None = None
    concurrency: int | None = None
    max_requests: int = 256
    max_requests_per_second: float | None = None
    retries: int = 10
    cache: str | None = None
    storage: tuple[StorageConfig, ...] = ()

    def __post_init__(self) -> None:
        require_text("source", self.source, "the URL of a release root", "pass --source URL")
        require_text("targets", self.targets, "the URL of a targets table", "pass --targets FILE")
        require_place("source", self.source, with_query=False)
        require_place("targets", self.targets)
        for key in ("survey", "layout", "instrument"):
            require_text(key, getattr(self, key), "a name", "see the help of `plan`")
        if not isinstance(self.release, str):
            raise ConfigError("release", self.release, "text such as 'dr17'")
        if not self.release:
            object.__setattr__(self, "release", release_of(self.source))
        for key in ("shard", "chunk", "expect"):
            if getattr(self, key) is not None:
                require_count(key, getattr(self, key), 1)
        if self.concurrency is not None:
            require_count("concurrency", self.concurrency, 1)
            if self.concurrency > MAX_CONCURRENCY:
                raise ConfigError(
                    "concurrency", self.concurrency, f"at most {MAX_CONCURRENCY} files in flight per task"
                )
        require_count("max_requests", self.max_requests, 1)
        if self.max_requests_per_second is not None:
            require_positive("max_requests_per_second", self.max_requests_per_second)
        require_count("retries", self.retries, 0)
        if self.cache is not None:
            require_text("cache", self.cache, "the URL of a folder or bucket", "give --cache a URL, or do not pass it")
            require_place("cache", self.cache, with_query=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return {**dataclasses.asdict(self), "storage": {table.prefix: table.to_dict() for table in self.storage}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from a mapping; unknown and missing keys raise ConfigError by name."""
        checked = checked_keys(cls, values, "survey")
        tables = checked.pop("storage", {})
        if not isinstance(tables, Mapping):
            raise ConfigError("storage", tables, 'one table per URL, such as [storage."s3://bucket"]')
        storage = tuple(StorageConfig.from_dict(prefix, tables[prefix]) for prefix in sorted(tables))
        if len({table.prefix for table in storage}) < len(storage):
            raise RefusedError("storage", f"a URL has two [storage] tables: {', '.join(sorted(tables))}", "remove one")
        return cls(**checked, storage=storage)


def checked_keys(cls: type, values: Mapping[str, Any], table: str) -> dict[str, Any]:
    """Return the values of a mapping for a dataclass; unknown and missing keys raise ConfigError by name."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    known = ", ".join(fields)
    for key in values:
        if key not in fields and _CREDENTIAL.search(key):
            raise RefusedError(
                f"{table}.{key}", f"{table}.{key} is not a known key", f"{_IN_ENVIRONMENT}; the keys are {known}"
            )
        if key not in fields:
            value = "..." if isinstance(values[key], (dict, list)) else values[key]  # a table may hold a secret
            raise RefusedError(
                f"{table}.{key}",
                f"{table}.{key} (with the value {value!r}) is not a known key",
                f"the keys are {known}",
            )
    for key, field in fields.items():
        if field.default is field.default_factory is dataclasses.MISSING and key not in values:
            raise ConfigError(f"{table}.{key}", None, "a value", "the key is required")
    return dict(values)


def require_text(key: str, value: object, expected: str, remedy: str) -> None:
    """Refuse what is no text. Raises ConfigError."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(key, value, expected, remedy)


def require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices. Raises ConfigError."""
    if value not in choices:
        raise ConfigError(key, value, f"one of {', '.join(choices)}")


def require_count(key: str, value: object, least: int) -> None:
    """Refuse a value that is not a whole number >= `least`. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(key, value, f"a whole number of at least {least}")


def require_positive(key: str, value: object) -> None:
    """Refuse what is no number above 0. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(key, value, "a number above 0")
