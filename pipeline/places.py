"""Places that no command can use are refused by name, before anything is read from them or written to them."""

from __future__ import annotations

import os
import re

from pipeline.errors import ConfigError

LONGEST_NAME = 255
"""Bytes of a file's name, on every common file system; an object's key is one of such names."""

LONGEST_OWN = 200
"""Bytes of a name that becomes part of a file's: a model's, a column's. What is added takes less than the rest."""

# Of a path on a disk, Linux takes 4,096 bytes; what a run has below its ROOT takes less than the rest.
_LONGEST_PATH = 4096 - 3 * LONGEST_NAME

_WINDOWS = re.compile(r"(file:/*)?[A-Za-z]:(?P<rest>[\\/].*|\Z)")


def require_usable(key: str, url: str) -> None:
    """Refuse a place that is empty, in nobody's home, of another system, or too long for a name. Raises ConfigError."""
    if not url.strip():
        raise ConfigError(key, url, "a path or a URL", "an empty one may come from a variable that is not set")
    if _WINDOWS.match(url):
        remedy = "Windows' paths are not known here: under WSL the drive C: is /mnt/c"
        raise ConfigError(key, url, "a path of this system, or a URL", remedy)
    is_local = "://" not in url or url.startswith("file://")
    path = url.removeprefix("file://")
    if is_local and path.startswith("~") and os.path.expanduser(path).startswith("~"):
        user = path[1:].split("/", 1)[0]
        remedy = f"for a folder of this name write ./{path}"
        raise ConfigError(key, url, f"a path; there is no user {user!r} whose home it could be in", remedy)
    long = max((len(name) for name in os.fsencode(path).split(b"/")), default=0)
    if long > LONGEST_NAME:
        raise ConfigError(key, f"{url[:60]}...", f"names of at most {LONGEST_NAME} bytes", f"one has {long}")
    if is_local and len(os.fsencode(os.path.abspath(path))) > _LONGEST_PATH:
        expected = f"a path of at most {_LONGEST_PATH} bytes, so that files below it can be named"
        raise ConfigError(key, f"{url[:60]}...", expected, "choose a shorter one")


def require_short(key: str, name: str) -> None:
    """Refuse a name that is too long to become a part of a file's. Raises ConfigError."""
    size = len(os.fsencode(name))
    if size > LONGEST_OWN:
        raise ConfigError(key, f"{name[:60]}...", f"a name of at most {LONGEST_OWN} bytes", f"it has {size}")
