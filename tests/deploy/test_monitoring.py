"""The dashboard asks for what real schedulers and workers serve, as the monitor labels it."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.cli import main as cli
from pipeline.errors import ExitStatus
from pipeline.kubernetes import manifests
from tests.integration import test_metrics
from tests.running import make_root

from .expanding import DEPLOY, Document, container, expand, pods, render, the

MONITORING = DEPLOY / "monitoring"
RUN = "spender-dr17"
SELECTOR = re.compile(r"([a-z_]+)\{([^}]*)\}(?:\[\w+\])?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
FUNCTIONS = {"avg", "clamp_max", "count", "max", "rate", "sum"}

cluster = test_metrics.cluster

dashboard: Document = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
targets = {f"{p['title']} {t['refId']}": t for p in dashboard["panels"] for t in p["targets"]}
queries = [each["definition"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
every_expression = pytest.mark.parametrize("target", targets.values(), ids=targets.keys())


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]


def run_documents(operator: bool = True) -> list[Document]:
    request = manifests.Request(name=RUN, root="s3://bucket/dr17", memory=2**31, image="registry.example/spender:1")
    filled = manifests.fill(render(DEPLOY / "base"), request)
    return expand(filled) if operator else manifests.without_operator(filled)


def monitor() -> Document:
    return the(render(MONITORING), "PodMonitor")["spec"]


def endpoint() -> Document:
    (found,) = monitor()["podMetricsEndpoints"]
    return found


def labels_of(pod: Document) -> dict[str, str]:
    """Label what is scraped from a pod, as the Prometheus operator does and as the monitor asks for."""
    prefix = "__meta_kubernetes_pod_label_"
    found = {prefix + re.sub(r"[^a-z0-9]", "_", key): value for key, value in pod["metadata"]["labels"].items()}
    made = {"namespace": "spender", "pod": "a-pod"}
    for each in endpoint()["relabelings"]:
        assert set(each) == {"sourceLabels", "targetLabel"}
        (source,) = each["sourceLabels"]
        made[each["targetLabel"]] = found.get(source, "")
    return {key: value for key, value in made.items() if value}


@pytest.fixture(scope="module")
def scraped(mirror: Path, cluster: test_metrics.Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Read what is served after a run of two chunks, of which one failed, as if CPU and GPU pods had done it."""
    folder = tmp_path_factory.mktemp("scraped")
    source = folder / "sas"
    root, plan = make_root(folder, mirror, source=str(source), n=4)
    test_metrics.copy(root, plan, mirror, source)
    assert cli.main(["run", root, "--scheduler", cluster.scheduler]) == ExitStatus.SOME_FAILED
    at_scheduler, at_workers = test_metrics.endpoints(cluster.scheduler)
    every = pods(run_documents())
    found = read(at_scheduler, every["scheduler"])
    for url in at_workers:
        found += [*read(url, every["cpu"]), *read(url, every["gpu"])]
    return found


def read(url: str, pod: Document) -> list[Sample]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    labels = labels_of(pod)
    samples = [sample for family in families for sample in family.samples]
    assert not any(set(sample.labels) & set(labels) for sample in samples), "the monitor overwrites no label"
    return [Sample(sample.name, {**sample.labels, **labels}) for sample in samples]


def selected(name: str, matchers: str, samples: list[Sample]) -> list[Sample]:
    """Give the samples that a selector selects, with the dashboard's variables set."""
    found = [sample for sample in samples if sample.name == name]
    for label, operator, value in MATCHER.findall(matchers):
        pattern = {"$namespace": "spender", "$run": RUN}.get(value, value)
        wanted = re.compile(pattern if "~" in operator else re.escape(pattern))
        found = [s for s in found if bool(wanted.fullmatch(s.labels.get(label, ""))) == ("!" not in operator)]
    return found


@pytest.mark.parametrize("operator", [True, False], ids=["operator", "no operator"])
def test_the_monitor_selects_all_pods_that_serve_metrics(operator: bool) -> None:
    wanted = monitor()["selector"]
    (expression,) = wanted["matchExpressions"]
    assert expression["operator"] == "In"
    serving = set()
    for name, pod in pods(run_documents(operator)).items():
        labels = pod["metadata"]["labels"]
        if wanted["matchLabels"].items() <= labels.items() and labels[expression["key"]] in expression["values"]:
            serving.add(name)
            assert endpoint()["port"] in {port["name"] for port in container(pod)["ports"]}
            assert labels_of(pod)["run"] == labels[manifests.RUN_LABEL] == RUN
    assert serving == {"scheduler", "cpu", "gpu"}


def test_the_namespace_of_the_monitor_is_let_in() -> None:
    namespace = the(render(MONITORING), "PodMonitor")["metadata"]["namespace"]
    policies = {each["metadata"]["name"]: each["spec"] for each in run_documents() if each["kind"] == "NetworkPolicy"}
    rules = policies["operator-and-monitoring"]["ingress"]
    (ports,) = [
        {port["port"] for port in rule["ports"]}
        for rule in rules
        for peer in rule["from"]
        if peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    ]
    every = pods(run_documents())
    served = [each for name in ("scheduler", "cpu", "gpu") for each in container(every[name])["ports"]]
    assert ports == {each["containerPort"] for each in served if each["name"] == endpoint()["port"]}


def test_grafana_finds_the_dashboard_by_its_label() -> None:
    found = the(render(MONITORING), "ConfigMap")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["name"] == "spender-pipeline-dashboard", "without a hash: it is replaced, not added"
    assert json.loads(found["data"]["dashboard.json"]) == dashboard


@every_expression
def test_every_selector_finds_what_is_served(target: Document, scraped: list[Sample]) -> None:
    selectors = SELECTOR.findall(target["expr"])
    assert selectors
    for name, matchers in selectors:
        assert selected(name, matchers, scraped), f"{name}{{{matchers}}}"


@every_expression
def test_what_is_grouped_by_is_a_label_there(target: Document, scraped: list[Sample]) -> None:
    grouped = {label for labels in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
    there = [sample.labels for selector in SELECTOR.findall(target["expr"]) for sample in selected(*selector, scraped)]
    assert all(any(label in labels for labels in there) for label in grouped)
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped


@every_expression
def test_an_expression_is_of_one_run_and_names_no_metric_without_it(target: Document) -> None:
    for _, matchers in SELECTOR.findall(target["expr"]):
        assert {("namespace", "=", "$namespace"), ("run", "=", "$run")} <= set(MATCHER.findall(matchers))
    rest = re.sub(r"by \([^)]*\)", "", SELECTOR.sub("", target["expr"]))
    assert set(re.findall(r"[a-z_]+", rest)) <= FUNCTIONS


@pytest.mark.parametrize("query", queries)
def test_variables_have_values_before_any_chunk_is_done(query: str, scraped: list[Sample]) -> None:
    match = re.fullmatch(r"label_values\((\w+)\{(.*)\}, (\w+)\)", query)
    assert match is not None
    assert match[1].startswith("dask_")
    wanted = {"namespace": "spender", "run": RUN}[match[3]]
    assert {sample.labels[match[3]] for sample in selected(match[1], match[2], scraped)} == {wanted}


def test_panels_lie_beside_each_other_and_say_what_they_show() -> None:
    panels = dashboard["panels"]
    taken = [cell for panel in panels for cell in cells(**panel["gridPos"])]
    assert len(taken) == len(set(taken))
    assert all(0 <= x < 24 for x, _ in taken)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)


def cells(x: int, y: int, w: int, h: int) -> list[tuple[int, int]]:
    return [(x + i, y + j) for i in range(w) for j in range(h)]
