"""The few verbs of a Kubernetes API server that `submission` uses, kept in memory: for what a real one seldom says.

That a real API server, its scheduler and the real operator do the same is shown by `trial`, which needs a cluster.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Document = dict[str, Any]

CORE = {"v1": ("Namespace", "ServiceAccount", "ConfigMap", "Secret", "Pod", "Service")}
GROUPS = {
    "apps/v1": ("Deployment",),
    "batch/v1": ("Job",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
}
OPERATOR = {"kubernetes.dask.org/v1": ("DaskJob", "DaskCluster", "DaskWorkerGroup")}


def plural(kind: str) -> str:
    return "networkpolicies" if kind == "NetworkPolicy" else f"{kind.lower()}s"


@dataclass
class Api:
    """objects: by path. refusals: status by (verb, part of a path). logs: by pod. down: whether nothing is answered.

    garbled: so many lists of pods are answered with a web page. has_singular_names: old servers leave them out.
    """

    operator: bool = True
    objects: dict[str, Document] = field(default_factory=dict)
    refusals: dict[tuple[str, str], int] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    down: bool = False
    garbled: int = 0
    has_singular_names: bool = True

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        return {**GROUPS, **(OPERATOR if self.operator else {})}

    def names(self, kind: str) -> list[str]:
        """List the objects of a kind by name."""
        return sorted(each["metadata"]["name"] for each in self.objects.values() if each["kind"] == kind)

    def add(self, document: Document, namespace: str = "spender") -> Document:
        """Put an object there as if somebody else had."""
        core = document["apiVersion"] in CORE
        base = f"/{'api' if core else 'apis'}/{document['apiVersion']}"
        where = base if document["kind"] == "Namespace" else f"{base}/namespaces/{namespace}"
        metadata = {"namespace": namespace, "uid": str(uuid.uuid4()), **document["metadata"]}
        path = f"{where}/{plural(document['kind'])}/{metadata['name']}"
        self.objects[path] = {**document, "metadata": metadata}
        return self.objects[path]

    def pod(self, run: str, component: str, status: Document) -> Document:
        """Put a run's pod there."""
        labels = {"spender-pipeline/run": run, "dask.org/component": component}
        metadata = {"name": f"{run}-{component}", "labels": labels}
        return self.add({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})

    def answer(self, verb: str, url: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(url)
        path, query = parts.path.rstrip("/"), parse_qs(parts.query)
        refused = [status for (of, part), status in self.refusals.items() if of == verb and part in path]
        if refused:
            return refused[0], {
                "kind": "Status",
                "status": "Failure",
                "message": f"{verb} is refused",
                "code": refused[0],
            }
        if self.garbled and path.endswith("/pods"):
            self.garbled -= 1
            return 200, "<html>Please log in</html>"
        if path.endswith("/log"):
            return 200, self.logs.get(path.split("/")[-2], "")
        found = self._discovery(path)
        if found is not None:
            return 200, found
        kinds = {plural(kind) for kinds in (*CORE.values(), *self.groups.values()) for kind in kinds}
        if verb == "POST" and path.rsplit("/", 1)[-1] in kinds:
            document = {**body, "metadata": {**body["metadata"], "uid": str(uuid.uuid4())}}
            return 201, self.objects.setdefault(f"{path}/{body['metadata']['name']}", document)
        if path in self.objects:
            if verb == "DELETE":
                return 200, self.objects.pop(path)
            if verb == "PATCH":
                merge(self.objects[path], body)
            return 200, self.objects[path]
        if verb == "GET" and path.rsplit("/", 1)[-1] in kinds:
            wanted = dict(
                term.split("=") for term in ",".join(query.get("labelSelector", [])).split(",") if "=" in term
            )
            inside = [each for name, each in self.objects.items() if name.rsplit("/", 1)[0] == path]
            return 200, {
                "kind": "List",
                "metadata": {},
                "items": [each for each in inside if wanted.items() <= each["metadata"].get("labels", {}).items()],
            }
        return 404, {"kind": "Status", "status": "Failure", "message": "not found", "code": 404}

    def _discovery(self, path: str) -> Document | None:
        """What there is: kr8s looks kinds up by their names."""
        if path == "/version":
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [
                {"name": each.split("/")[0], "versions": [version(each)], "preferredVersion": version(each)}
                for each in self.groups
            ]
            return {"kind": "APIGroupList", "groups": groups}
        known = {f"/api/{name}": (name, kinds) for name, kinds in CORE.items()}
        known |= {f"/apis/{name}": (name, kinds) for name, kinds in self.groups.items()}
        if path not in known:
            return None
        name, kinds = known[path]
        resources = [
            {
                "name": plural(kind),
                "singularName": kind.lower() if self.has_singular_names else "",
                "kind": kind,
                "namespaced": kind != "Namespace",
                "verbs": [],
            }
            for kind in kinds
        ]
        return {"kind": "APIResourceList", "groupVersion": name, "resources": resources}


def version(name: str) -> Document:
    return {"groupVersion": name, "version": name.split("/")[1]}


def merge(into: Document, patch: Document) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


@contextmanager
def serve(api: Api, folder: Path) -> Iterator[Path]:
    """Serve it on loopback; gives the kubeconfig that names it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if api.down:
                self.close_connection = True
                return
            status, found = api.answer(self.command, self.path, json.loads(body) if body else None)
            sent = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "users": [{"name": "me", "user": {"token": "none"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "spender"}}],
        }
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        yield file
        server.shutdown()
        thread.join()
