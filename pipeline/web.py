"""Web servers as file systems: as fsspec reads them, but right also where a server ignores what a request asks for."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fsspec.implementations.http import HTTPFileSystem


class WebFileSystem(HTTPFileSystem):  # type: ignore[misc] # fsspec has no types
    """fsspec's HTTP, which takes the whole of a file for a part of it where the server ignores Range."""

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:  # noqa: ANN401
        """Return a file, or a part of it; a server that sends all of it regardless is slow, but not wrong."""
        if start is None and end is None:
            return bytes(await super()._cat_file(url, **kwargs))
        if start == end:
            return b""
        options = {**self.kwargs, **kwargs}
        asked = {**options.pop("headers", {}), "Range": await self._process_limits(url, start, end)}
        session = await self.set_session()
        async with session.get(self.encode_url(url), headers=asked, **options) as response:
            content = await response.read()
            self._raise_not_found_for_status(response, url)
            return bytes(content[start:end] if response.status == HTTPStatus.OK else content)
