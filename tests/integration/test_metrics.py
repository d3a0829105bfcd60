# SPDX-License-Identifier: Apache-2.0
"""Do the metrics say what operators are told to watch, and do the alerts watch metrics?"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fastdl.lab.certs import self_signed
from tests.env.fake_agent import local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone

ROOT = Path(__file__).parents[2]
RULES = ROOT / "packaging" / "prometheus-rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana-dashboard.json"
OF_PROMETHEUS = {"up"}
DAY = 86400


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with one zone, one host, and a certificate on it."""
    async with running_zone(tmp_path) as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        await made.api(
            "uploadTemplateDirectDownloadCertificate",
            hypervisor="KVM",
            name="m1",
            zoneid=made.id,
            certificate=self_signed(days=40),
        )
        yield made


async def scraped(zone: Zone) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Sample name → (labels, value), as Prometheus reads them."""
    url = zone.api.credentials["url"].replace("/client/api", "/metrics")

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(await asyncio.to_thread(get)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
        # A family without children has no sample yet.
        found.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, [])
    return found


async def test_each_kind_of_certificate_has_its_expiry_by_name(zone: Zone) -> None:
    """Of hosts, of the manager, of origins: what nobody renews is seen in time."""
    found = await scraped(zone)
    ((labels, left),) = found["fastdl_host_certificate_expiry_seconds"]
    assert labels == {"zone": "z1", "host": "kvm1"}
    assert 88 * DAY < left <= 90 * DAY
    ((labels, left),) = found["fastdl_certificate_expiry_seconds"]
    assert labels == {"zone": "z1", "alias": "m1"}
    assert 38 * DAY < left <= 40 * DAY
    names = {labels["name"] for labels, _ in found["fastdl_server_certificate_expiry_seconds"]}
    assert "ca" in names
    assert found["process_resident_memory_bytes"][0][1] > 0
    (host,) = (await zone.api("listHosts"))["host"]
    assert "certificateexpires" in host
    await zone.agents[0].close()
    await zone.api("deleteHost", id=host["id"], forced="true")
    assert (await scraped(zone))["fastdl_host_certificate_expiry_seconds"] == []


async def test_alerts_and_the_table_name_metrics_that_there_are(zone: Zone) -> None:
    """A rule on a name that nothing has never fires, and nobody notices."""
    there = set(await scraped(zone))
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    page = (ROOT / "docs" / "operations.md").read_text()
    for rule in group["rules"]:
        named = set(re.findall(r"\b(?:fastdl|process)_[a-z_]+\b|\bup\b", rule["expr"]))
        assert named, rule
        assert named - OF_PROMETHEUS <= there, rule
        assert rule["alert"] in page
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
    table = set(re.findall(r"`((?:fastdl|process)_[a-z_]+)", page))
    histograms = {name.removesuffix("_count") for name in there if name.endswith("_count")}
    assert table <= there | histograms


async def test_the_dashboard_shows_metrics_that_exist_by_their_labels(zone: Zone) -> None:
    """Each expression, and what its legend and its grouping name."""
    found = await scraped(zone)
    for item in json.loads(DASHBOARD.read_text())["panels"]:
        for target in item["targets"]:
            (name,) = re.findall(r"\bfastdl_[a-z_]+", target["expr"])
            assert name in found, target
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])
            assert labels == set(grouped[1].split(", ")) if grouped else labels
            for known, _ in found[name][:1]:
                assert labels <= known.keys(), target


def test_prometheus_takes_the_rules_and_the_dashboards_expressions(tmp_path: Path) -> None:
    """Read by its own parser."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [
        {"record": f"dashboard:panel{item['id']}:{number}", "expr": target["expr"]}
        for item in panels
        for number, target in enumerate(item["targets"])
    ]
    expressions = tmp_path / "dashboard.yml"
    expressions.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": shown}]}))
    done = subprocess.run(
        [promtool, "check", "rules", RULES, expressions],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(shown)} rules found" in done.stdout


async def test_the_states_that_alerts_ask_for_are_those_that_are_counted(zone: Zone) -> None:
    """Labels are part of a rule, too."""
    found = await scraped(zone)
    assert ({"state": "Up"}, 1.0) in found["fastdl_hosts"]
    assert ({"status": "UPLOADED"}, 1.0) in found["fastdl_certificate_pushes"]
    await zone.agents[0].close()
    for _ in range(100):
        found = await scraped(zone)
        if ({"state": "Disconnected"}, 1.0) in found["fastdl_hosts"]:
            break
        await asyncio.sleep(0.05)
    assert ({"state": "Disconnected"}, 1.0) in found["fastdl_hosts"]
