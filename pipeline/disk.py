"""Files on a local disk, written whole: readers see the old content or the new one, never a part."""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Both Zarr's local store and this module write under such a name and rename; a killed process leaves it behind.
PARTIAL_SUFFIX = ".partial"

# What file systems without hard links answer: FAT and exFAT, some network and FUSE mounts, containers' shared folders.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})

_LOCK = f".lock{PARTIAL_SUFFIX}"


def write(path: Path, url: str, data: bytes) -> None:
    """Write a file in place of one that may be there. url: what errors call it."""
    with _beside(path, url, data) as temporary:
        os.replace(temporary, path)


def create(path: Path, url: str, data: bytes) -> bool:
    """Write a file if there is none, as one step; tell whether it was written. url: what errors call it."""
    with _beside(path, url, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(path, temporary)
    return True


def _create_without_links(path: Path, temporary: Path) -> bool:
    """Give a file a name that nothing has, where there are no hard links.

    A lock, which ends with the process that holds it, keeps others off between the look and the renaming. Where there
    are no locks either, the look is all.
    """
    with open(path.with_name(_LOCK), "ab") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return False
        os.replace(temporary, path)
        return True


def remove_partial(folder: Path) -> int:
    """Remove the half-written files that killed processes left under a folder; return how many."""
    rests = list(folder.rglob(f"*{PARTIAL_SUFFIX}"))
    for rest in rests:
        rest.unlink(missing_ok=True)
    return len(rests)


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
