"""`make cost` follows the template; the proof of concept stays under what was promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from control_plane.errors import ProvisioningError
from local.process import ROOT
from service.archive.metrics import UNITS as ARCHIVE_UNITS
from service.customer.backlog import UNITS as BACKLOG_UNITS
from service.customer.metrics import UNITS
from tests.cdk.aws_rules import alarms
from tests.support.deploy.stack import template

if TYPE_CHECKING:
    from cdk.cost.bill import Bill

pytestmark = pytest.mark.xdist_group("templates")

PROMISED_DOLLARS = 30


def bill_of(**changes: Any) -> Bill:
    return billed(template(**changes).to_json())


def billed(made: Any) -> Bill:
    from cdk.cost.bill import bill, load_prices

    return bill(made, load_prices())


def dollars(found: Bill, name: str) -> float:
    (item,) = [item for item in found.items if item.name.startswith(name)]
    return item.dollars


def test_three_tasks_of_a_proof_of_concept_cost_at_most_thirty_dollars_with_everything_counted() -> None:
    found = bill_of(alert_email="on-call@example.com")
    assert found.tasks == 3
    assert found.dollars <= PROMISED_DOLLARS
    for name in (
        "tasks of customer", "public IPv4", "NAT", "Container Insights", "metrics", "alarms, by", "alarms of",
        "dashboard", "log,", "log of", "secrets", "image", "table",
    ):  # fmt: skip
        assert dollars(found, name) >= 0


def test_each_item_by_hand() -> None:
    from cdk.observability.alarms import SERVER_ERRORS

    found = bill_of()
    assert dollars(found, "tasks of customer") == pytest.approx(1 * (0.25 * 0.03238 + 0.5 * 0.00356) * 730)
    assert dollars(found, "  on Spot, 70% off") == pytest.approx(2 * (0.25 * 0.03238 + 0.5 * 0.00356) * 730 * 0.3)
    found = bill_of(spot=False)
    assert dollars(found, "  on Spot") == 0
    assert dollars(found, "tasks of customer") == pytest.approx(3 * (0.25 * 0.03238 + 0.5 * 0.00356) * 730)
    assert dollars(found, "public IPv4") == pytest.approx(3 * 0.005 * 730)
    assert dollars(found, "metrics") == pytest.approx(0.30 * len(UNITS))
    assert dollars(found, "alarms, by") == pytest.approx(0.10 * (9 + len(SERVER_ERRORS) + 1)), "ErrorRate is on several"
    assert dollars(found, "alarms of") == pytest.approx(0.10 * 6), "two for each of three policies"
    assert dollars(found, "NAT") == dollars(found, "dashboard") == 0
    assert dollars(found, "secrets") == 0.40
    assert 0.01 < dollars(found, "log,") < 1


def test_production_has_its_nat_gateways_and_their_addresses() -> None:
    found = bill_of(environment="production")
    assert dollars(found, "NAT") == pytest.approx(3 * 0.045 * 730)
    assert dollars(found, "public IPv4") == pytest.approx(3 * 0.005 * 730), "one for each gateway, none for a task"
    assert dollars(found, "dashboard") == 3
    assert dollars(found, "tasks of customer") == pytest.approx(3 * (0.5 * 0.03238 + 1 * 0.00356) * 730)
    assert found.dollars > bill_of().dollars


def test_it_follows_the_settings() -> None:
    assert dollars(bill_of(architecture="x86-64"), "tasks of customer") > dollars(bill_of(), "tasks of customer")
    assert dollars(bill_of(tasks=5), "  on Spot") == pytest.approx(2 * dollars(bill_of(), "  on Spot"))
    assert dollars(bill_of(dashboard=True), "dashboard") == 3
    assert dollars(bill_of(log_days=365), "log,") > dollars(bill_of(), "log,")


def test_a_role_that_is_scaled_from_zero_is_counted_with_what_it_has_at_rest() -> None:
    found = bill_of(archive={"enabled": True})
    assert dollars(found, "tasks of archive") == 0
    assert found.tasks == 3
    assert found.dollars > bill_of().dollars, "its alarms, metrics and secret"
    assert found.per_million(0.1) > bill_of().per_million(0.1)


KMS_KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd"


@pytest.mark.parametrize("environment", ["poc", "production"])
@pytest.mark.parametrize("source", ["jetstream", "sqs"])
def test_every_resource_and_every_call_that_is_paid_for_is_on_the_bill(environment: str, source: str) -> None:
    changes: dict[str, Any] = {
        "environment": environment,
        "alert_email": "on-call@example.com",
        "archive": {"enabled": True, "source": source},
        "queue": {"enabled": True, "image": "handler", "source": source},
    }
    found, made = bill_of(**changes), template(**changes).to_json()
    secrets = [name for name in made["Parameters"] if name.endswith("NatsSecretArn")]
    assert len(secrets) == (3 if source == "jetstream" else 2), "the archive's dead letters go to NATS in any case"
    assert dollars(found, "secrets") == pytest.approx(0.40 * len(secrets))
    names = {
        name
        for alarm in alarms(made).values()
        for metric in [
            alarm,
            *(part["MetricStat"]["Metric"] for part in alarm.get("Metrics", ()) if "MetricStat" in part),
        ]
        if metric.get("Namespace") == "CustomerBalance" and (name := metric["MetricName"])
    }
    reported = {*UNITS, *ARCHIVE_UNITS, *(BACKLOG_UNITS if source == "jetstream" else ())}
    assert names <= reported
    assert dollars(found, "metrics") == pytest.approx(0.30 * len(reported))
    named = [item.name for item in (*found.items, *found.requests, *found.others)]
    assert len(named) == len(set(named)), "`make cost` shows one line for each name"
    written = {item.name: item.dollars for item in (*found.requests, *found.others)}
    if source == "jetstream":
        assert written["archived rows"] == pytest.approx(0.625), "a write for each answer"
        assert written["archived rows"] > written["reads"], "the largest item of all"
    else:
        assert written["  rows of archive"] == pytest.approx(0.625)
        nat = 0.2 * 0.045 if environment == "production" else 0
        for role in ("archive", "queue"):
            assert written[f"messages of {role}, a million"] == pytest.approx(0.2 * 0.40 + nat)
    size = 0.25 * 0.03238 + 0.5 * 0.00356
    address = 0 if environment == "production" else 0.005
    share = 1 if environment == "production" else 0.3
    assert written["adjustments, a million"] == pytest.approx(6 * 0.625), "two writes for balance, row and index each"
    assert written["an hour of a task of archive"] == pytest.approx(size * share + address)
    assert written["  its looks at the queue"] == pytest.approx(3600 * 0.40e-6 if source == "sqs" else 0)
    keyed = {"existing_table": "old", "existing_table_key": KMS_KEY, "exec": True}
    assert bill_of(**changes, **keyed).dollars > 0


def test_a_million_requests() -> None:
    from cdk.cost.bill import load_prices

    found = bill_of()
    per_second = 3 * 0.25 * load_prices()["use"]["requests_per_second_per_vcpu"]
    million = found.dollars / (per_second * 0.1 * 730 * 3600 / 1e6) + 0.0625 + 0.27 * 0.09
    assert found.per_million(0.1) == pytest.approx(million)
    assert found.per_million(0.8) < found.per_million(0.1)
    assert found.dollars_per_million < bill_of(environment="production").dollars_per_million, "bytes through NAT"


def test_what_has_no_price_is_not_counted_as_nothing() -> None:
    made = deepcopy(template().to_json())
    made["Resources"]["Balancer"] = {"Type": "AWS::ElasticLoadBalancingV2::LoadBalancer", "Properties": {}}
    with pytest.raises(ProvisioningError, match="AWS::ElasticLoadBalancingV2::LoadBalancer: no price"):
        billed(made)
    made = deepcopy(template().to_json())
    statement = {"Action": "s3:PutObject", "Effect": "Allow", "Resource": "*"}
    made["Resources"]["More"] = {
        "Type": "AWS::IAM::Policy", "Properties": {"PolicyDocument": {"Statement": [statement]}}
    }  # fmt: skip
    with pytest.raises(ProvisioningError, match="s3:PutObject: no price"):
        billed(made)
    made = deepcopy(template().to_json())
    for resource in made["Resources"].values():
        if resource["Type"] == "AWS::ECS::Cluster":
            resource["Properties"]["ClusterSettings"][0]["Value"] = "enhanced"
    with pytest.raises(ProvisioningError, match="Container Insights has no price"):
        billed(made)


def without_aws() -> dict[str, str]:
    """The environment of a machine that knows no AWS account."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and name != "INITIALS"}
    files = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
    return {**env, **dict.fromkeys(files, "/nowhere"), "AWS_EC2_METADATA_DISABLED": "true"}


def command(name: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdk", name], cwd=ROOT, env={**without_aws(), **env}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_the_command_needs_no_aws_configuration() -> None:
    ran = command("cost")
    assert ran.returncode == 0, ran.stderr
    assert "…" not in ran.stdout
    (together,) = [line.split() for line in ran.stdout.splitlines() if line.startswith("together")]
    assert float(together[1]) <= PROMISED_DOLLARS < float(together[2])


def test_synth_assumes_what_it_does_not_know_and_says_so(tmp_path: Path) -> None:
    ran = command("synth", CDK_OUTPUT=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    for note in (
        "region is not set and AWS is not configured: us-east-1 is assumed",
        "initials is not set and AWS is not configured: POC is assumed",
        "alert_email is empty: alarms notify nobody",
    ):
        assert note in ran.stdout
    assert json.loads((tmp_path / "CustomerBalance-POC.template.json").read_text())["Resources"]
