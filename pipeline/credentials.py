"""As whom an S3 filesystem asks, for messages: never the secret, nor all of the key."""

from __future__ import annotations

import os

import fsspec
from botocore.exceptions import BotoCoreError
from botocore.session import Session


def has_own_server() -> bool:
    """Tell whether the environment names an S3 server of its own, and who asks there."""
    servers, users = {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}, {"AWS_ACCESS_KEY_ID", "AWS_PROFILE"}
    return bool(servers & os.environ.keys()) and bool(users & os.environ.keys())


def identity(fs: fsspec.AbstractFileSystem) -> str:
    """Name the credentials that an S3 filesystem sends: the key's ends and where it was found."""
    if fs.anon:
        return "an anonymous request"
    key, method = fs.key, "FSSPEC_S3_KEY"
    if not key:
        try:
            found = Session(profile=fs.kwargs.get("profile")).get_credentials()
        except BotoCoreError:
            found = None
        if found is None:
            return "an unsigned request: no credentials were found"
        key, method = found.access_key, found.method
    return f"access key {key[:4]}...{key[-2:]} ({method})"
