"""URL to filesystem and Zarr store: the only place that knows s3fs.

Every location of a run is a URL that fsspec understands, or a plain path. Credentials come from the environment (the
standard AWS variables and profiles); nothing here keeps or prints them. Endpoints do, too, and how buckets are reached
at all, but for those that a plan has a `[storage]` table for.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from fsspec.asyn import AsyncFileSystem
from fsspec.exceptions import FSTimeoutError

from pipeline import disk
from pipeline.config import StorageConfig
from pipeline.credentials import has_own_server, identity
from pipeline.errors import ConfigError
from pipeline.places import require_usable
from pipeline.version import __version__
from pipeline.web import WebFileSystem

if TYPE_CHECKING:
    from zarr.abc.store import Store

PATIENCE = 150.0
"""Seconds for a server to do one thing, whatever its client's own timeouts and repeats: a silent one is given up."""

# Listings must show what is there now: another process may have written since the last look. Timeouts and retries of
# single requests are s3fs's own (5 and 15 s, five attempts), each of them with botocore's (AWS_MAX_ATTEMPTS).
_FRESH_LISTINGS = {"use_listings_cache": False}
# trust_env: proxies and ~/.netrc, as every other client of the machine does.
# The timeouts are of silence: a large catalog may take hours.
_SILENCE = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=40)
_CLIENT = {"headers": {"User-Agent": f"spender-pipeline/{__version__}"}, "trust_env": True, "timeout": _SILENCE}
_HTTP = {**_FRESH_LISTINGS, "client_kwargs": _CLIENT}
# One at a time: s3fs asks for an object's size before it reads, in case parts of it could be fetched side by side. That
# would be two requests for each of a run's many small objects, and for shards that are read beside others anyway.
_S3 = {**_FRESH_LISTINGS, "max_concurrency": 1}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3, "http": _HTTP, "https": _HTTP}

WEB = ("http", "https")

_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "httpx", "httpx2", "huggingface_hub", "requests")


def is_backend_error(error: BaseException) -> bool:
    """Tell whether a storage client raised one of its own classes; see `translated_errors`."""
    return type(error).__module__.split(".")[0] in _CLIENTS


# The plan that a task works on decides: a worker may serve two runs at once. The threads of a pool, which have no
# own context, take the tables that this process was given last.
_tables: ContextVar[tuple[StorageConfig, ...]] = ContextVar("storage tables")
_latest_tables: tuple[StorageConfig, ...] = ()


def configure(tables: Sequence[StorageConfig]) -> None:
    """From now on, reach the buckets of these tables by their settings, and all others by the environment alone."""
    global _latest_tables
    _latest_tables = tuple(tables)
    _tables.set(_latest_tables)


# Buckets that everybody may read, by the prefixes of their URLs.
_public: set[str] = set()


def publish(prefixes: Iterable[str]) -> None:
    """From now on, read what lies below these URLs without credentials.

    Not where the environment names a server of its own with a key: its bucket of that name is another.
    """
    _public.update(prefixes)


def _options(url: str, *, as_sent: bool = False) -> dict[str, Any]:
    """Return fsspec's options for a URL; those of a table are complete: the environment's are never mixed in."""
    options = dict(_OPTIONS.get(protocol(url), {}))
    if as_sent and "client_kwargs" in options:
        options["client_kwargs"] = {**_CLIENT, "auto_decompress": False}
    covering = [table for table in _tables.get(_latest_tables) if table.covers(url)]
    if not covering:
        is_public = any(f"{url}/".startswith(f"{prefix}/") for prefix in _public)
        return options | {"anon": True} if is_public and not has_own_server() else options
    table = max(covering, key=lambda each: len(each.prefix))
    options |= {"anon": table.anonymous, "requester_pays": table.requester_pays}
    if table.endpoint is not None:
        options["endpoint_url"] = table.endpoint
    if table.profile is not None:
        options["profile"] = table.profile
    if table.path_style is not None:
        options["config_kwargs"] = {"s3": {"addressing_style": "path" if table.path_style else "virtual"}}
    return options


Place = str | os.PathLike[str]
"""Where something is: a URL that fsspec opens, or a path."""


def place(url: Place, key: str = "path") -> str:
    """Return a place as a URL or an absolute path. Raises ConfigError, about the key, for one that cannot be used."""
    text = os.fspath(url)
    require_usable(key, text)
    return absolute(text)


def protocol(url: str) -> str:
    """Return the URL's scheme; "file" for a plain path."""
    return url.split("://", 1)[0].lower() if "://" in url else "file"


def local_path(url: str) -> Path | None:
    """Return the path of a local URL (plain, `~` or file://), None for any other."""
    if protocol(url) != "file":
        return None
    path = Path(url.removeprefix("file://"))
    try:
        return path.expanduser()
    except RuntimeError:  # no such user: a path like any other, that is not there
        return path


def absolute(url: str) -> str:
    """Make a local path absolute, and leave any other URL as it is: workers elsewhere have another working folder."""
    path = local_path(url)
    return url if path is None else os.path.abspath(path)


def filesystem(url: str, *, as_sent: bool = False) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of a URL and the path in it. Raises ConfigError for an unknown scheme.

    as_sent: give bodies as a server sends them, compressed or not, whatever its headers say.
    """
    path = local_path(url)
    if path is not None:
        return fsspec.filesystem("file"), os.path.abspath(path)
    options = _options(url, as_sent=as_sent)
    if protocol(url) in WEB:
        return WebFileSystem(**options), url
    try:
        fs, inner = fsspec.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError("URL", url, "a path or a URL that fsspec opens", str(error)) from error
    return fs, inner


def zarr_store(url: str, *, read_only: bool = False) -> Store:
    """Return the Zarr store at a URL: files on a local disk, fsspec anywhere else."""
    from zarr.storage import FsspecStore, LocalStore

    path = local_path(url)
    if path is not None:
        return LocalStore(os.path.abspath(path), read_only=read_only)
    if protocol(url) in WEB:
        return FsspecStore(WebFileSystem(asynchronous=True, **_options(url)), path=url, read_only=read_only)
    return FsspecStore.from_url(url, storage_options=_options(url), read_only=read_only)


def join(url: str, *parts: str) -> str:
    """Append path parts to a URL, with single slashes between them."""
    base = url if url.endswith("://") else url.rstrip("/")
    return "/".join([base, *(part.strip("/") for part in parts)])


def is_misconfigured(error: BaseException) -> bool:
    """Tell whether what a storage client raised is for the user to correct: no credentials, no such profile, ..."""
    return isinstance(error, BotoCoreError) and not isinstance(error, (HTTPClientError, BotoConnectionError))


_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def is_inconclusive(error: BaseException) -> bool:
    """Distinguish an answer that says nothing about the data, such as a timeout or a refusal, from one that does."""
    about_data = isinstance(error, _ABSENT) or _status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and not about_data)


class AccessError(OSError):
    """A storage client lacks something that it needs, such as credentials: a user's mistake or a transient fault.

    Not a ConfigError: a machine's or a pod's own credential service may be available again at the next attempt.
    """


# Servers' names for rejected credentials, besides those that s3fs makes a PermissionError of.
# 400 is all that a HEAD says of them.
_REFUSED = frozenset(
    {"400", "AuthorizationHeaderMalformed", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
)


@contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Turn the errors of storage clients into what our callers expect.

    Missing credentials and the like become AccessError, faults of the connection OSError, which is worth a retry;
    PermissionError says which server refused whom.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__
        code = str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""
        if protocol(url) == "s3" and (isinstance(error, PermissionError) or code in _REFUSED):
            raise PermissionError(errno.EACCES, _refusal(url, error, code), url) from error
        if isinstance(error, FSTimeoutError):
            raise TimeoutError(errno.ETIMEDOUT, f"no answer for {PATIENCE:.0f} s", url) from error
        if isinstance(error, OSError) or not is_backend_error(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        if not is_misconfigured(error):
            raise OSError(f"{url}: {reason}") from error
        remedy = "check the credentials and the endpoint: the AWS variables or the profile"
        raise AccessError(errno.EACCES, f"{remedy} ({reason})", url) from error


def _timely(fs: fsspec.AbstractFileSystem, size: int = 0) -> dict[str, float]:
    """Return the argument by which a call to a server ends in time. size: bytes to be sent, at 1 MB/s or more."""
    return {"timeout": PATIENCE + size / 1e6} if isinstance(fs, AsyncFileSystem) else {}


def _refusal(url: str, error: Exception, code: str) -> str:
    """Say what a server refused, which one it is, and as whom it was asked: never the secret, nor all of the key."""
    fs, _ = filesystem(url)
    text = " ".join(str(error).split()).rstrip(".")
    answer = text if code in text else f"{code}: {text}"
    clock = "; this machine's clock differs from the server's: set it" if code == "RequestTimeTooSkewed" else ""
    return f"{answer} (from {server(url)}, for {identity(fs)}){clock}"


def server(url: str) -> str:
    """Return the name of the server that holds a URL, for messages: the endpoint of S3, else the URL's protocol."""
    if protocol(url) not in ("s3", "s3a"):
        return f"{protocol(url)}://"
    fs, _ = filesystem(url)
    fs.connect()
    endpoint, region = str(fs.s3.meta.endpoint_url), fs.s3.meta.region_name
    return f"AWS, region {region}" if endpoint.endswith(".amazonaws.com") else endpoint


def exists(url: str) -> bool:
    """Tell whether there is an object, a file or a folder at the URL."""
    fs, path = filesystem(url)
    with translated_errors(url):
        return bool(fs.exists(path, **_timely(fs)))


def read_bytes(url: str) -> bytes:
    """Return an object's content. Raises FileNotFoundError."""
    fs, path = filesystem(url)
    # s3fs would ask for the size first, to read large objects in parts, and a HEAD's refusal says no reason.
    whole = {"max_concurrency": 1} if protocol(url) == "s3" else {}
    with translated_errors(url):
        return bytes(fs.cat_file(path, **whole, **_timely(fs)))


def write_bytes(url: str, data: bytes) -> None:
    """Write an object whole: readers see the old content or the new one, never a part.

    Object stores do this by themselves; on a local disk the data goes to a file beside and is renamed.
    """
    path = local_path(url)
    if path is None:
        fs, inner = filesystem(url)
        with translated_errors(url):
            fs.pipe_file(inner, data, **_timely(fs, len(data)))
        return
    disk.write(path, url, data)


def create_bytes(url: str, data: bytes) -> bool:
    """Write an object whole if there is none, as one step; tell whether it was written.

    False: there is an object already, perhaps our own, since a client repeats a request whose answer was lost.
    Servers that do not know conditional writes (If-None-Match) write it in any case.
    """
    path = local_path(url)
    if path is not None:
        return disk.create(path, url, data)
    fs, inner = filesystem(url)
    try:
        with translated_errors(url):
            fs.pipe_file(inner, data, mode="create", **_timely(fs, len(data)))
    except FileExistsError:
        return False
    except OSError as error:
        if _status(error) == HTTPStatus.PRECONDITION_FAILED:
            return False
        if _status(error) == HTTPStatus.NOT_IMPLEMENTED:
            write_bytes(url, data)
            return True
        raise
    return True


def _status(error: BaseException) -> int | None:
    """Find the HTTP status behind what s3fs raised."""
    response = getattr(error.__cause__, "response", None) or {}
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of a value: sorted keys, no NaN, UTF-8, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(url: str) -> dict[str, Any]:
    """Return the JSON object stored at a URL. Raises FileNotFoundError, ValueError for anything else."""
    value = json.loads(read_bytes(url))
    if not isinstance(value, dict):
        raise ValueError(f"{url} is JSON, but not a table of keys and values")
    return value


def write_json(url: str, value: object) -> None:
    """Write a value as canonical JSON, whole."""
    write_bytes(url, canonical_json(value))


def list_names(url: str) -> list[str]:
    """Return the sorted names directly inside a folder, from one listing; empty when there is no such folder.

    Half-written files of a killed process are left out.
    """
    return sorted(modified(url))


def modified(url: str) -> dict[str, float | None]:
    """Return what `list_names` does with when each was last written: seconds since the epoch, None where unknown."""
    fs, path = filesystem(url)
    try:
        with translated_errors(url):
            entries = fs.ls(path, detail=True, **_timely(fs))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found: dict[str, float | None] = {}
    for entry in entries:
        inner = str(entry["name"]).rstrip("/")
        if inner == path.rstrip("/") or inner.endswith(disk.PARTIAL_SUFFIX):
            continue
        moment = next((entry[key] for key in ("mtime", "LastModified", "created") if key in entry), None)
        seconds = moment.timestamp() if isinstance(moment, datetime) else moment
        found[inner.rsplit("/", 1)[-1]] = None if seconds is None else float(seconds)
    return found


def remove(url: str, *, recursive: bool = False) -> None:
    """Remove an object, or a folder when `recursive`; one that is not there is no error."""
    fs, path = filesystem(url)
    try:
        with translated_errors(url):
            # Not `rm` for one object: it takes brackets and stars in a name for a pattern, and removes what fits.
            fs.rm(path, recursive=True) if recursive else fs.rm_file(path, **_timely(fs))
    except FileNotFoundError:
        return


def remove_partial(url: str) -> int:
    """Remove the half-written files that killed processes left under a local folder; return how many.

    Object stores keep no such leftovers. Call it only when no other process is writing there.
    """
    folder = local_path(url)
    return 0 if folder is None else disk.remove_partial(folder)


def require_writable(key: str, url: str, *parts: str) -> None:
    """Write and remove one small object under a URL. Raises ConfigError about the key when that does not work.

    parts: of the folder below the URL that gets it, where a process that is killed meanwhile leaves it.
    """
    probe = join(url, *parts, f".writable-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, b"")
        remove(probe)
    except (OSError, NotImplementedError) as error:
        remedy = f"check the path, the credentials and the endpoint ({type(error).__name__}: {error})"
        raise ConfigError(key, url, "a place that can be written", remedy) from error
