"""The certificates of deploy/certificates: Dask talks by them, as deploy/base sets it up, to nobody who has none."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from cryptography import x509

from tests.dask_processes import process

from .expanding import DEPLOY, container, expand, pods, render, tool

CERTIFICATES = DEPLOY / "certificates"
MOUNTED = "/etc/tls/dask"  # where deploy/base has them
FILES = {"ca.crt", "tls.crt", "tls.key"}


def make(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(CERTIFICATES / "make.sh"), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "dask-tls"
    done = make("-o", folder, "-d", "30")
    assert done.returncode == 0, done.stderr
    return folder


def test_what_is_made_is_what_pods_mount(made: Path) -> None:
    assert {file.name for file in made.iterdir()} == FILES
    settings = (DEPLOY / "base" / "dask.yaml").read_text(encoding="utf-8")
    assert all(f"{MOUNTED}/{name}" in settings for name in FILES)
    for pod in pods(expand(render(DEPLOY / "base"))).values():
        mounts = {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}
        assert mounts["tls"] == MOUNTED


def test_keys_are_their_owners_and_the_authoritys_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    assert make("-o", tmp_path / "new", TMPDIR=str(tmp_path / "scratch")).returncode == 0
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()} == {0o600}


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_the_certificate_is_good_for_both_ends_by_the_strictest_rules(made: Path, purpose: str) -> None:
    # What Python asks for since 3.13 (VERIFY_X509_STRICT).
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", made / "ca.crt", made / "tls.crt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_valid_for_as_many_days_as_asked_for(made: Path) -> None:
    for name in ("ca.crt", "tls.crt"):
        certificate = x509.load_pem_x509_certificate((made / name).read_bytes())
        assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30


def test_the_command_that_makes_the_secret_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    shown = make("-o", folder).stdout.split()
    assert shown[:7] == ["kubectl", "create", "secret", "generic", "dask-tls", "--namespace", "NAMESPACE"]
    assert {Path(argument.removeprefix("--from-file=")) for argument in shown[7:]} == {folder / name for name in FILES}


def test_where_kubernetes_does_not_answer_nothing_is_left(tmp_path: Path) -> None:
    path = f"{Path(tool('kubectl')).parent}:{os.environ['PATH']}"
    done = make("spender", TMPDIR=str(tmp_path), KUBECONFIG=os.devnull, PATH=path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: no Secret dask-tls was made in spender"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["-h"], 0, "usage: make.sh"),
        (["-x"], 2, "usage: make.sh"),
        ([], 1, "error: name the NAMESPACE"),
        (["one", "two"], 1, "error: one NAMESPACE, got: one two"),
        (["-o", "new", "-d", "a year"], 1, "error: -d is 'a year'"),
        (["-o", "."], 1, "error: -o is '.', which exists"),
        (["-o", "nowhere/new"], 1, "error: -o is 'nowhere/new', expected"),
    ],
)
def test_what_is_asked_wrongly_is_answered(arguments: list[str], status: int, shown: str) -> None:
    done = make(*arguments)
    assert done.returncode == status
    assert shown in done.stdout + done.stderr


def settings_for(folder: Path) -> Path:
    """Write the settings of deploy/base, with a folder in the place of the one that pods have."""
    settings = (DEPLOY / "base" / "dask.yaml").read_text(encoding="utf-8").replace(MOUNTED, str(folder))
    file = folder.parent / "dask.yaml"
    file.write_text(settings, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Iterator[str]:
    """Start a scheduler and a worker with nothing but the settings and the certificates."""
    folder = tmp_path_factory.mktemp("dask")
    here = ("--host", "127.0.0.1", "--no-dashboard")
    config = {"DASK_CONFIG": str(settings_for(made))}
    with ExitStack() as stack:
        shown = (r"Scheduler at:\s+(tls://127\.0\.0\.1:\d+)",)
        started = process(folder, shown, "scheduler", "--port", "0", *here, **config)
        (address,) = stack.enter_context(started)
        scratch = ("--local-directory", str(folder / "scratch"))
        started = process(folder, (r"Registered to:\s+(tls://\S+)",), "worker", address, *here, *scratch, **config)
        stack.enter_context(started)
        yield address


def test_driver_scheduler_and_worker_talk(scheduler: str, made: Path) -> None:
    program = "import sys; from distributed import Client; print(Client(sys.argv[1]).submit(sum, (20, 22)).result())"
    command = [sys.executable, "-c", program, scheduler]
    environment = {**os.environ, "DASK_CONFIG": str(settings_for(made))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "42\n", done.stderr


def first_byte(scheduler: str, authority: Path, member: Path | None) -> bytes:
    """Call a scheduler, trusting an authority, as a member or as nobody; give the first byte that it says."""
    context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    context.check_hostname = False
    if member is not None:
        context.load_cert_chain(member / "tls.crt", member / "tls.key")
    at = urlsplit(scheduler)
    with socket.create_connection((at.hostname, at.port), timeout=20) as plain, context.wrap_socket(plain) as encrypted:
        return encrypted.recv(1)


def test_a_scheduler_greets_who_has_a_certificate(scheduler: str, made: Path) -> None:
    assert first_byte(scheduler, made, made)


def test_who_has_no_certificate_is_refused(scheduler: str, made: Path) -> None:
    with pytest.raises(ssl.SSLError, match="certificate required"):
        first_byte(scheduler, made, None)


def test_who_has_a_certificate_of_another_authority_is_refused(scheduler: str, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert make("-o", other).returncode == 0
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        first_byte(scheduler, made, other)
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        first_byte(scheduler, other, other)


def test_cert_manager_makes_the_same_secret() -> None:
    text = (CERTIFICATES / "cert-manager.yaml").read_text(encoding="utf-8")
    found = {(each["kind"], each["metadata"]["name"]): each["spec"] for each in yaml.safe_load_all(text)}
    member, authority = found["Certificate", "dask-tls"], found["Certificate", "dask-authority"]
    assert member["secretName"] == "dask-tls"
    assert {"server auth", "client auth"} <= set(member["usages"])
    issuer = found["Issuer", member["issuerRef"]["name"]]
    assert issuer["ca"]["secretName"] == authority["secretName"] != member["secretName"]
    assert authority["isCA"] is True
    assert "selfSigned" in found["Issuer", authority["issuerRef"]["name"]]
    hours = {key: int(member[key].removesuffix("h")) for key in ("duration", "renewBefore")}
    assert hours["duration"] > hours["renewBefore"] >= 30 * 24
    assert hours["duration"] < int(authority["renewBefore"].removesuffix("h")), "no member outlives its authority"
