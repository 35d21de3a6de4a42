"""A ROOT's plan, how storage is reached under it, and where its parts are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError
from pipeline.planning.model import ModelConfig
from pipeline.planning.plan import Generation, Plan
from pipeline.store.root import encode_ledger, ingest_ledger, ledgers, read_plan, targets_url, use_storage

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def _storage_as_before() -> Iterator[None]:
    yield
    storage.configure(())


def config_of(tables: dict[str, dict[str, object]] | None = None) -> SurveyConfig:
    values = {"source": "https://data.sdss.org/sas/dr17", "targets": "targets.parquet"}
    return SurveyConfig.from_dict({**values, "storage": tables or {}})


def make_plan(config: SurveyConfig | None = None) -> Plan:
    plan = Plan(config=config or config_of(), generations=(Generation(10, "cd" * 32),), shard=4, chunk=2)
    for name in ("second", "first"):
        model = ModelConfig(name=name, checkpoint=f"{name}.pt", sha256="ab" * 32, n_latent=3, n_rest=50)
        plan = plan.with_model(model)
    return plan


def is_anonymous(url: str) -> bool:
    return bool(storage._options(url).get("anon", False))


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan()
    for root in (str(tmp_path), f"memory://{uuid.uuid4().hex}"):
        storage.write_bytes(storage.join(root, "plan.json"), plan.to_json())
        assert read_plan(root) == plan


@pytest.mark.parametrize("root", ["nothing", "file", "file/below"])
def test_a_root_without_a_plan_is_refused_and_not_made(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError) as caught:
        read_plan(str(tmp_path / root))
    error = caught.value
    assert (error.key, error.value) == ("ROOT", str(tmp_path / root))
    assert error.expected == "a folder that holds a plan.json"
    assert error.remedy.startswith("make one with: spender-pipeline plan ROOT")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(make_plan().to_json()[:-20])
    with pytest.raises(ConfigError, match=r"plan\.json"):
        read_plan(str(tmp_path))


@pytest.mark.parametrize(
    "root",
    [
        f"s3://AKIA:{SECRET}@bucket/run",
        f"https://jane:{SECRET}@host/run",
        f"https://host/run?X-Amz-Signature={SECRET}",
        f"https://host/run?download={SECRET}",
        f"https://host/run#access_token={SECRET}",
    ],
)
def test_a_secret_in_root_is_refused_and_not_repeated_before_anything_is_opened(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(storage, "filesystem", opened.append)
    with pytest.raises(ConfigError) as caught:
        read_plan(root)
    assert caught.value.key == "ROOT"
    assert caught.value.expected == "a URL without user name, password and query"
    assert SECRET not in str(caught.value)
    assert opened == []


@pytest.mark.parametrize("root", ["s3://bucket", "s3://bucket/", "s3://bucket/run", "s3://bucket/run/"])
def test_a_storage_table_that_covers_root_is_refused(root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        use_storage(root, config_of({"s3://bucket": {"anonymous": True}}))
    error = caught.value
    assert error.key == "storage.s3://bucket"
    assert str(error).startswith(f"the table storage.s3://bucket covers ROOT, {root}; ")
    assert "AWS_ENDPOINT_URL" in error.remedy
    assert not is_anonymous(root)


@pytest.mark.parametrize("root", ["s3://bucket-2/run", "s3://buck", "s3://other/bucket", "/bucket", "memory://bucket"])
def test_a_storage_table_beside_root_is_used(root: str) -> None:
    use_storage(root, config_of({"s3://bucket": {"anonymous": True}}))
    assert is_anonymous("s3://bucket/dr17/file")
    assert not is_anonymous("s3://bucket-2/run")


def test_storage_is_reached_as_the_plan_that_was_read_last_says(tmp_path: Path) -> None:
    plans = {"open": make_plan(config_of({"s3://archive": {"anonymous": True}})), "own": make_plan()}
    for name, plan in plans.items():
        storage.write_bytes(f"{tmp_path}/{name}/plan.json", plan.to_json())
    read_plan(f"{tmp_path}/open")
    assert is_anonymous("s3://archive/dr17")
    read_plan(f"{tmp_path}/own")
    assert not is_anonymous("s3://archive/dr17")


@pytest.mark.parametrize("root", ["s3://bucket/dr17", "s3://bucket/dr17/"])
def test_the_parts_of_a_run_are_below_its_root(root: str) -> None:
    plan = make_plan()
    assert targets_url(root) == "s3://bucket/dr17/targets.parquet"
    assert ingest_ledger(root, plan).folder == f"s3://bucket/dr17/ledger/ingest-{plan.ingest_fingerprint[:8]}"
    fingerprint = plan.encode_fingerprint("second")
    assert encode_ledger(root, plan, "second").folder == f"s3://bucket/dr17/ledger/encode-second-{fingerprint[:8]}"


def test_there_is_a_ledger_for_every_stage_the_ingest_first() -> None:
    plan = make_plan()
    found = ledgers("memory://run", plan)
    assert [(each.stage, each.model) for each in found] == [("ingest", None), ("encode", "first"), ("encode", "second")]
    assert [each.fingerprint for each in found] == [
        plan.ingest_fingerprint,
        plan.encode_fingerprint("first"),
        plan.encode_fingerprint("second"),
    ]
    assert len({each.folder for each in found}) == 3


def test_a_ledger_of_a_model_that_is_not_planned_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of the plan's models: first, second"):
        encode_ledger("memory://run", make_plan(), "third")
