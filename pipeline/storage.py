"""URL to filesystem and Zarr store: the only place that knows s3fs.

Every location of a run is a URL that fsspec understands, or a plain path. Credentials and endpoints come
from the environment (the standard AWS variables and profiles); nothing here reads, keeps or prints them.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from pipeline import __version__
from pipeline.config import ConfigError

if TYPE_CHECKING:
    from zarr.abc.store import Store

# Listings must show what is there now: another process may have written since the last look. Timeouts and retries of
# single requests are s3fs's own (5 and 15 s, five attempts).
_FRESH_LISTINGS = {"use_listings_cache": False}
_HTTP = {**_FRESH_LISTINGS, "client_kwargs": {"headers": {"User-Agent": f"spender-pipeline/{__version__}"}}}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _FRESH_LISTINGS, "http": _HTTP, "https": _HTTP}

_CLIENTS = ("aiobotocore", "aiohttp", "botocore")

# Both Zarr's local store and `write_bytes` write under such a name and rename; a killed process leaves it behind.
PARTIAL_SUFFIX = ".partial"


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


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of a URL and the path in it. Raises ConfigError for a scheme nobody handles."""
    path = local_path(url)
    if path is not None:
        return fsspec.filesystem("file"), os.path.abspath(path)
    try:
        fs, inner = fsspec.url_to_fs(url, **_OPTIONS.get(protocol(url), {}))
    except (ValueError, ImportError) as error:
        raise ConfigError("URL", url, "a path or a URL that fsspec opens", str(error)) from error
    return fs, inner


def zarr_store(url: str, *, read_only: bool = False) -> Store:
    """Return the Zarr store at a URL: files on a local disk, fsspec anywhere else."""
    from zarr.storage import FsspecStore, LocalStore

    path = local_path(url)
    if path is not None:
        return LocalStore(os.path.abspath(path), read_only=read_only)
    options = _OPTIONS.get(protocol(url), {})
    return FsspecStore.from_url(url, storage_options=dict(options), read_only=read_only)


def join(url: str, *parts: str) -> str:
    """Append path parts to a URL, with single slashes between them."""
    base = url if url.endswith("://") else url.rstrip("/")
    return "/".join([base, *(part.strip("/") for part in parts)])


def is_misconfigured(error: BaseException) -> bool:
    """Tell whether what a storage client raised is the user's to mend: no credentials, no such profile, ..."""
    return isinstance(error, BotoCoreError) and not isinstance(error, (HTTPClientError, BotoConnectionError))


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turn what storage clients raise of their own into what our callers expect.

    Missing credentials and the like become ConfigError, faults of the connection OSError, which is worth a retry.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        told = f"{type(error).__name__}: {error}"
        if not is_misconfigured(error):
            raise OSError(f"{url}: {told}") from error
        remedy = f"check the credentials and the endpoint, the standard AWS variables or profile ({told})"
        raise ConfigError("URL", url, "storage that can be reached", remedy) from error


def exists(url: str) -> bool:
    """Tell whether there is an object, a file or a folder at the URL."""
    fs, path = filesystem(url)
    with _answering(url):
        return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """Return an object's content. Raises FileNotFoundError."""
    fs, path = filesystem(url)
    with _answering(url):
        return bytes(fs.cat_file(path))


def write_bytes(url: str, data: bytes) -> None:
    """Write an object whole: readers see the old content or the new one, never a part.

    Object stores do this by themselves; on a local disk the data goes to a file beside and is renamed.
    """
    path = local_path(url)
    if path is None:
        fs, inner = filesystem(url)
        with _answering(url):
            fs.pipe_file(inner, data)
        return
    with _beside(path, url, data) as temporary:
        os.replace(temporary, path)


def create_bytes(url: str, data: bytes) -> bool:
    """Write an object whole if there is none, as one step; tell whether it was written.

    False: there is an object already, perhaps our own, since a client repeats a request whose answer was lost.
    Servers that do not know conditional writes (If-None-Match) write it in any case.
    """
    path = local_path(url)
    if path is not None:
        with _beside(path, url, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        return True
    fs, inner = filesystem(url)
    try:
        with _answering(url):
            fs.pipe_file(inner, data, mode="create")
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


@contextmanager
def _beside(path: Path, url: str, data: bytes) -> Iterator[Path]:
    """Write data to a file beside a path, and remove it when done; errors name the URL, which the caller knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        temporary.write_bytes(data)
        yield temporary
    except OSError as error:
        raise type(error)(error.errno, error.strerror, url) from error
    finally:
        temporary.unlink(missing_ok=True)


def _status(error: OSError) -> int | None:
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
        raise ValueError(f"{url} holds JSON, but no object")
    return value


def write_json(url: str, value: object) -> None:
    """Write a value as canonical JSON, whole."""
    write_bytes(url, canonical_json(value))


def list_names(url: str) -> list[str]:
    """Return the sorted names directly inside a folder, from one listing; empty when there is no such folder.

    Half-written files of a killed process are left out.
    """
    fs, path = filesystem(url)
    try:
        with _answering(url):
            entries = fs.ls(path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry.rstrip("/") != path.rstrip("/")}
    return sorted(name for name in names if not name.endswith(PARTIAL_SUFFIX))


def remove(url: str, *, recursive: bool = False) -> None:
    """Remove an object, or a folder when `recursive`; one that is not there is no error."""
    fs, path = filesystem(url)
    try:
        with _answering(url):
            fs.rm(path, recursive=recursive)
    except FileNotFoundError:
        return


def remove_partial(url: str) -> int:
    """Remove the half-written files that killed processes left under a local folder; return how many.

    Object stores keep no such rests. Call it only when no other process is writing there.
    """
    folder = local_path(url)
    if folder is None:
        return 0
    rests = list(folder.rglob(f"*{PARTIAL_SUFFIX}"))
    for rest in rests:
        rest.unlink(missing_ok=True)
    return len(rests)


def require_writable(key: str, url: str) -> None:
    """Write and remove one small object under a URL. Raises ConfigError about the key when that does not work."""
    probe = join(url, f".writable-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, b"")
        remove(probe)
    except (OSError, NotImplementedError) as error:
        remedy = f"check the path, the credentials and the endpoint ({type(error).__name__}: {error})"
        raise ConfigError(key, url, "a place that can be written", remedy) from error
