"""An archive's web server on this machine: nginx (Debian's nginx-light), every answer delayed if asked to.

The delay is made by nginx itself (Debian's libnginx-mod-http-echo), so that it costs neither side any work.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSTALL = "apt-get install --no-install-recommends nginx-light libnginx-mod-http-echo"
ECHO = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")

_CONFIG = """
{load}
{user}
daemon off;
worker_processes 1;
pid {work}/pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location = /status {{ stub_status; }}
    {location}
  }}
}}
"""


def available(latency: float = 0) -> bool:
    """Whether this machine can serve, with such a latency (seconds) if it is not 0."""
    return shutil.which("nginx") is not None and (latency == 0 or ECHO.exists())


@contextmanager
def serve(root: Path, work: Path, latency: float = 0) -> Iterator[str]:
    """Serve a folder on a free port of the loopback; give its URL.

    work: folder for the server's own files. latency: seconds added to every answer. Raises SystemExit, saying what to
    install, where nginx is missing.
    """
    if not available(latency):
        raise SystemExit(f"nginx is needed: {INSTALL}")
    work.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    delayed = f"location / {{ echo_sleep {latency:g}; echo_exec @files; }}\n    location @files {{ }}"
    text = _CONFIG.format(
        user="user root;" if os.geteuid() == 0 else "",  # else its workers may not read temporary folders
        load=f"load_module {ECHO};" if latency else "",
        work=work.resolve(),
        port=port,
        root=root.resolve(),
        location=delayed if latency else "",
    )
    (work / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-p", str(work), "-c", str((work / "nginx.conf").resolve())])
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def in_flight(url: str) -> int:
    """Return the requests that the server is answering now, this one not counted."""
    with urllib.request.urlopen(f"{url}/status") as answer:
        text = answer.read().decode()
    found = re.search(r"Writing: (\d+)", text)
    assert found is not None, text
    return int(found[1]) - 1


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        try:
            in_flight(url)
            return
        except OSError:
            if process.poll() is not None:
                raise
            time.sleep(0.05)
    raise TimeoutError(f"no answer from {url}")
