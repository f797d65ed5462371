"""Alerts and dashboard as they are written: names that exist, rules that promtool accepts, alerts that fire."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.monitoring import manifests
from tests.monitoring.servers import binary

ALERTS = Path(__file__).parent / "alerts.yaml"


def promtool(*arguments: str, folder: Path) -> None:
    command = [binary("promtool"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", manifests.write_rules(tmp_path).name, folder=tmp_path)


def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    manifests.write_rules(tmp_path)
    shutil.copy(ALERTS, tmp_path)
    promtool("test", "rules", ALERTS.name, folder=tmp_path)


def test_every_alert_is_tried() -> None:
    tried = {
        case["alertname"]
        for test in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried == {rule["alert"] for rule in manifests.rules()}


def test_an_alert_that_is_broken_is_found(tmp_path: Path) -> None:
    text = manifests.write_rules(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "rules.yaml").write_text(text.replace("> 0.05", "> 0.5"), encoding="utf-8")
    shutil.copy(ALERTS, tmp_path)
    with pytest.raises(AssertionError, match="StarBatchRowsFail"):
        promtool("test", "rules", ALERTS.name, folder=tmp_path)


def test_alerts_ask_for_what_is_exported() -> None:
    for rule in manifests.rules():
        unknown = manifests.names_in(rule["expr"]) - manifests.exported() - manifests.KUBE_STATE_METRICS
        assert not unknown, f"{rule['alert']}: {unknown}"


def test_the_readme_names_every_alert() -> None:
    readme = (manifests.FOLDER.parents[1] / "star_batch" / "monitor" / "README.md").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in manifests.rules() if f"`{rule['alert']}`" not in readme] == []


def test_panels_ask_for_what_is_exported() -> None:
    for title, expression in manifests.queries():
        names = manifests.names_in(expression)
        assert names, title
        assert not names - manifests.exported(), f"{title}: {names - manifests.exported()}"


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in manifests.DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in manifests.DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_query_follows_the_datasource_that_is_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert {variable["name"] for variable in manifests.DASHBOARD["templating"]["list"]} >= {"datasource"}
    for panel in manifests.panels():
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [chosen] * (
            1 + len(panel["targets"])
        )
