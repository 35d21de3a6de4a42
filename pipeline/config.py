"""What a user asks for: frozen dataclasses, read from TOML or flags, validated once, without I/O."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# The grids a survey can be put on, with their pinned lengths. DESI has published models but no archive layout here.
GRID_LENGTHS = {"sdss": 3921, "boss": 4686}
LAYOUTS = ("spec-lite", "spec", "spPlate")
MAX_CONCURRENCY = 100  # connections that fsspec's HTTP client opens at once
PRECISIONS = ("float32", "tf32", "bf16")

# Variables of an encodings store that a user may choose; quality always lands.
OPTIONAL_VARIABLES = ("latents", "restframe", "reconstruction", "chi2", "n_pixels", "amplitude")
# The reconstruction can be computed from the restframe and the redshift, and is as large: off unless asked for.
DEFAULT_VARIABLES = ("latents", "restframe", "chi2", "n_pixels", "amplitude")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_RELEASE = re.compile(r"(?<![a-z0-9])(e?dr\d+)(?![a-z0-9])", re.IGNORECASE)
_PREFIX = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(/(?!\.{0,2}(/|\Z))[^/?#:@\s]+)*\Z")
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+(/[^?#@\s]*)?\Z")
_CREDENTIAL = re.compile(r"key|secret|token|passw|pwd|credential|auth", re.IGNORECASE)
_IN_ENVIRONMENT = "credentials come from the AWS variables or a profile: this file is copied into plan.json"

# What a URL may tell beside a place, and plan.json must not: a user's name and password, a signature, a token.
# (A colon that no port follows begins a password, and passwords such as AWS's secret keys may hold slashes.)
_USER = re.compile(
    r"(?<!github:)//([^/\s'\"]*@|[^/@\s:]*:(?!\d*(?:[/?#]|\Z))[^\s'\"]*@|(?<=s3://)[^/@\s:]*:[^\s'\"]*@)", re.IGNORECASE
)
_QUERY = re.compile(r"\?[^\s'\"]*|#[^\s'\"]*=[^\s'\"]*")
# In text a question mark may be one, but for those of a URL, or of a part of one.
_QUERY_IN_TEXT = re.compile(r"(\w://[^\s'\"?#]*)(\?|#)[^\s'\"]+|()(\?)[\w.~%+-]+=[^\s'\"]*")
_PLAIN_QUERY = re.compile(r"\?((download|dl|raw|versionId)=[\w.-]*(&|\Z))+\Z")


class ConfigError(ValueError):
    """A setting that the user can mend: which key, what it is, what was expected, and the remedy."""

    def __init__(self, key: str, value: object, expected: str, remedy: str = "") -> None:
        super().__init__(key, value, expected, remedy)
        self.key = key
        self.value = value
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.key} is {self.value!r}, expected {self.expected}"
        return redacted(f"{text}; {self.remedy}" if self.remedy else text)


def release_of(url: str) -> str:
    """Return the data release named in a source URL ("dr17"), or "" when it names none."""
    found = _RELEASE.findall(url)
    return found[-1].lower() if found else ""


def redacted(text: str) -> str:
    """Return a URL, or text that holds some, without the user names, passwords and signatures in it."""
    return _QUERY_IN_TEXT.sub(lambda found: f"{found[1] or ''}{found[2] or found[4]}***", _USER.sub("//***@", text))


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
            raise ConfigError("storage", self.prefix, 'tables named by a URL, [storage."s3://bucket"]')
        key = f"storage.{self.prefix}"
        if self.endpoint is not None and not (isinstance(self.endpoint, str) and _ENDPOINT.match(self.endpoint)):
            raise ConfigError(f"{key}.endpoint", self.endpoint, "such as https://s3.example.org", _IN_ENVIRONMENT)
        if self.profile is not None:
            _text(f"{key}.profile", self.profile, "the name of an AWS profile", "")
        for name in ("anonymous", "requester_pays", "path_style"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "path_style" and value is None):
                raise ConfigError(f"{key}.{name}", value, "true or false")
        if self.anonymous and (self.profile is not None or self.requester_pays):
            other = "profile" if self.profile is not None else "requester_pays"
            raise ConfigError(f"{key}.anonymous", True, f"no {other} beside it", f"{other} needs an identity")

    def covers(self, url: str) -> bool:
        """Tell whether a URL is the prefix or lies below it, by whole parts of the path."""
        return f"{url.rstrip('/')}/".startswith(f"{self.prefix}/")

    @classmethod
    def from_dict(cls, prefix: str, values: object) -> Self:
        """Build one table's configuration. Raises ConfigError for unknown keys, most of all for credentials."""
        if not isinstance(values, Mapping):
            expected = 'tables named by a URL, [storage."s3://bucket"]'
            raise ConfigError("storage", prefix, expected, _IN_ENVIRONMENT)
        checked = _checked_keys(cls, {**values, "prefix": prefix}, f"storage.{prefix}")
        if "prefix" in values:
            raise ConfigError(f"storage.{prefix}.prefix", values["prefix"], "no such key", "the table's name says it")
        return cls(**checked)

    def to_dict(self) -> dict[str, Any]:
        """Return what was said, as JSON-ready values."""
        fields = [field for field in dataclasses.fields(self) if field.name != "prefix"]
        return {each.name: getattr(self, each.name) for each in fields if getattr(self, each.name) != each.default}


@dataclass(frozen=True, kw_only=True)
class SurveyConfig:
    """Where a survey's spectra come from and how they are laid out in the store.

    source: release root, the folder that holds `sdss/` and `eboss/` (any fsspec URL).
    targets: URL that the plan's targets were copied from.
    layout: how the source arranges its files. instrument: the wavelength grid.
    release: data release, for the provenance; read from `source` when empty.
    shard, chunk: spectra per task and per inner chunk; None lets the plan choose.
    concurrency: files in flight per task; None: 64 over the network, 8 from a disk.
    max_requests: files in flight of the whole run. max_requests_per_second: started by the whole run; None: no limit.
    retries: attempts after a transient fault. cache: URL of a folder or bucket that is looked in before the source
    and filled with what is fetched. storage: how buckets are reached that the environment alone does not lead to.
    """

    source: str
    targets: str
    layout: str = "spec-lite"
    instrument: str = "sdss"
    release: str = ""
    shard: int | None = None
    chunk: int | None = None
    concurrency: int | None = None
    max_requests: int = 256
    max_requests_per_second: float | None = None
    retries: int = 10
    cache: str | None = None
    storage: tuple[StorageConfig, ...] = ()

    def __post_init__(self) -> None:
        _text("source", self.source, "the URL of a release root", "pass --source URL")
        _text("targets", self.targets, "the URL of a targets table", "pass --targets FILE")
        require_place("source", self.source, with_query=False)
        require_place("targets", self.targets)
        _choice("layout", self.layout, LAYOUTS)
        _choice("instrument", self.instrument, tuple(GRID_LENGTHS))
        if not isinstance(self.release, str):
            raise ConfigError("release", self.release, "text such as 'dr17'")
        if not self.release:
            object.__setattr__(self, "release", release_of(self.source))
        for key in ("shard", "chunk"):
            if getattr(self, key) is not None:
                _count(key, getattr(self, key), 1)
        if self.concurrency is not None:
            _count("concurrency", self.concurrency, 1)
            if self.concurrency > MAX_CONCURRENCY:
                raise ConfigError(
                    "concurrency", self.concurrency, f"at most {MAX_CONCURRENCY} files in flight per task"
                )
        _count("max_requests", self.max_requests, 1)
        if self.max_requests_per_second is not None:
            _positive("max_requests_per_second", self.max_requests_per_second)
        _count("retries", self.retries, 0)
        if self.cache is not None:
            _text("cache", self.cache, "the URL of a folder or bucket", "pass --cache URL, or nothing")
            require_place("cache", self.cache, with_query=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return {**dataclasses.asdict(self), "storage": {table.prefix: table.to_dict() for table in self.storage}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from a mapping; unknown and missing keys raise ConfigError by name."""
        checked = _checked_keys(cls, values, "survey")
        tables = checked.pop("storage", {})
        if not isinstance(tables, Mapping):
            raise ConfigError("storage", tables, 'tables named by a URL, [storage."s3://bucket"]')
        storage = tuple(StorageConfig.from_dict(prefix, tables[prefix]) for prefix in sorted(tables))
        if len({table.prefix for table in storage}) < len(storage):
            raise ConfigError("storage", sorted(tables), "each prefix once")
        return cls(**checked, storage=storage)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model of a plan: what the user asked for and, once resolved, what the checkpoint turned out to be.

    name: label of the encodings store. checkpoint: path, fsspec URL or published name.
    variables: what lands in the store. precision: arithmetic of the model.
    micro_batch: spectra per forward pass; None lets the plan choose.
    sha256, n_latent, n_rest: of the checkpoint, filled in by `resolve`.
    """

    name: str
    checkpoint: str
    variables: tuple[str, ...] = DEFAULT_VARIABLES
    precision: str = "float32"
    micro_batch: int | None = None
    sha256: str | None = None
    n_latent: int | None = None
    n_rest: int | None = None

    def __post_init__(self) -> None:
        _text("model.checkpoint", self.checkpoint, "a path, URL or published name", "pass --model M")
        require_place("model.checkpoint", self.checkpoint)
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            expected = "letters, digits, '.', '_' and '-', starting with a letter or digit"
            raise ConfigError("model.name", self.name, expected, "it names the folder of the encodings")
        object.__setattr__(self, "variables", _ordered(self.variables))
        _choice("model.precision", self.precision, PRECISIONS)
        if self.micro_batch is not None:
            _count("model.micro_batch", self.micro_batch, 1)
        if self.sha256 is not None and not (isinstance(self.sha256, str) and _SHA256.match(self.sha256)):
            raise ConfigError("model.sha256", self.sha256, "64 lower-case hexadecimal digits")
        for key in ("n_latent", "n_rest"):
            if getattr(self, key) is not None:
                _count(f"model.{key}", getattr(self, key), 1)

    @property
    def resolved(self) -> bool:
        """Whether everything a plan needs to know of the checkpoint is known."""
        return None not in (self.sha256, self.n_latent, self.n_rest, self.micro_batch)

    def resolve(self, *, sha256: str, n_latent: int, n_rest: int, micro_batch: int | None = None) -> Self:
        """Return the model with the facts of its checkpoint; `micro_batch` only fills in an open choice."""
        chosen = self.micro_batch if self.micro_batch is not None else micro_batch
        return dataclasses.replace(self, sha256=sha256, n_latent=n_latent, n_rest=n_rest, micro_batch=chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON-ready values."""
        return {**dataclasses.asdict(self), "variables": list(self.variables)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a model from a mapping; unknown and missing keys raise ConfigError by name."""
        return cls(**_checked_keys(cls, values, "model"))


def read_toml(text: str) -> tuple[SurveyConfig, tuple[ModelConfig, ...]]:
    """Read a survey file: the keys of SurveyConfig at the top level, one `[[model]]` table per model.

    A model's name defaults to the last part of its checkpoint without the suffix. Raises ConfigError.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config", str(error), "valid TOML") from error
    tables = values.pop("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("model", tables, "[[model]] tables", "write [[model]] with double brackets")
    models = [ModelConfig.from_dict({"name": model_name(str(t.get("checkpoint", ""))), **t}) for t in tables]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError("model.name", names, "different names", "give each [[model]] its own name")
    return SurveyConfig.from_dict(values), tuple(models)


def model_name(checkpoint: str) -> str:
    """Return the default name of a model: the last part of its checkpoint's path, without a model suffix."""
    stem = re.sub(r"\.(pt|pth|ckpt|safetensors)\Z", "", checkpoint.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")


def _checked_keys(cls: type, values: Mapping[str, Any], table: str) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    known = ", ".join(fields)
    for key in values:
        if key not in fields and _CREDENTIAL.search(key):
            raise ConfigError(f"{table}.{key}", "***", f"one of the keys {known}", _IN_ENVIRONMENT)
        if key not in fields:
            value = "..." if isinstance(values[key], (dict, list)) else values[key]  # nobody knows what is in a table
            raise ConfigError(f"{table}.{key}", value, f"one of the keys {known}", "remove or correct the key")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            raise ConfigError(f"{table}.{key}", None, "a value", "the key is required")
    return dict(values)


def _text(key: str, value: object, expected: str, remedy: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(key, value, expected, remedy)


def require_place(key: str, url: str, with_query: bool = True) -> None:
    """Refuse a URL that tells more than a place: it is written into plan.json, logs and names of tasks."""
    if "://" not in url:
        return
    query = _QUERY.search(url)
    if _USER.search(url) or (query and not (with_query and _PLAIN_QUERY.match(query[0]))):
        remedy = "it is written down for others: for credentials use ~/.netrc, or the AWS variables or a profile"
        raise ConfigError(key, url, "a URL without user name, password and query", remedy)


def _choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(key, value, f"one of {', '.join(choices)}")


def _count(key: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(key, value, f"a whole number of at least {least}")


def _positive(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(key, value, "a number above 0")


def _ordered(variables: object) -> tuple[str, ...]:
    """Return the variables in the schema's order, so that the order of asking changes no fingerprint."""
    if isinstance(variables, str) or not isinstance(variables, (list, tuple)):
        raise ConfigError("model.variables", variables, "a list of variable names")
    for name in variables:
        _choice("model.variables", name, OPTIONAL_VARIABLES)
    if not variables:
        raise ConfigError("model.variables", variables, f"at least one of {', '.join(OPTIONAL_VARIABLES)}")
    return tuple(name for name in OPTIONAL_VARIABLES if name in variables)
