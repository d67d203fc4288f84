"""What each role calls in AWS is what its policy allows, no more and no less: those that are deployed, and those that a
reader is given. The calls are recorded while the roles start, work and stop; cfn-lint has AWS's list of actions.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest

from local.process import ROOT
from service.contracts.customer import CREATE_SUBJECT, GET_SUBJECT, SUBJECT
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.cdk import test_archive, test_queue, test_stack
from tests.support.archive import make_archive
from tests.support.check import check
from tests.support.deploy.stack import template
from tests.support.dynamodb.faulty import FaultyDynamoDB, faulty_dynamodb, refusal
from tests.support.ledger import adjusting
from tests.support.queue.sidecar import started
from tests.support.world import World, eventually

pytestmark = pytest.mark.xdist_group("templates")
VARIABLE = "AWS_ENDPOINT_URL_SQS"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-west-1"}
KUBERNETES = ROOT / "deploy" / "kubernetes" / "permissions"
CFNLINT = Path(str(find_spec("cfnlint").origin)).parent  # type: ignore[union-attr]
POLICIES = json.loads((CFNLINT / "data" / "AdditionalSpecs" / "Policies.json").read_text())


def permission(service: str, operation: str) -> str:
    """What an operation takes. A batch takes what one does, where AWS has no action of its own for it."""
    if operation.lower() not in POLICIES[service]["Actions"]:
        operation = operation.removesuffix("Batch")
    assert operation.lower() in POLICIES[service]["Actions"]
    return f"{service}:{operation}"


def needed(proxy: FaultyDynamoDB, service: str) -> set[str]:
    return {permission(service, operation) for operation, _ in proxy.calls}


@dataclass
class Queue:
    """moto's, behind a proxy that writes down what is called."""

    sqs: Any
    proxy: FaultyDynamoDB
    name: str = field(default_factory=lambda: f"orders-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.url = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]

    @property
    def env(self) -> dict[str, str]:
        return {**KEYS, VARIABLE: self.proxy.env[VARIABLE]}

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def left(self) -> int:
        """Messages that wait, and those that anyone has."""
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])


@pytest.fixture
async def queue(moto: str) -> AsyncIterator[Queue]:
    client: Any = boto3.client(
        "sqs", endpoint_url=moto, region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    async with faulty_dynamodb({VARIABLE: moto}, VARIABLE) as proxy:
        yield Queue(client, proxy)


def actions(statements: Iterable[dict[str, Any]]) -> set[str]:
    """Of these statements; none may allow what matches a pattern."""
    found = set()
    for statement in statements:
        given = statement["Action"]
        found |= {given} if isinstance(given, str) else set(given)
    assert not any("*" in action for action in found)
    return found


async def receive_and_leave(world: World, queue: Queue, source: str) -> None:
    """A sidecar hands out, changes, deletes and stops."""
    queue.send("one", "two", "three")
    async with started(world, {"QUEUE": f"sqs:{source}", **queue.env}) as (task, channel):
        stub = SQSServiceStub(channel)
        receipts: list[str] = []
        while len(receipts) < 3:
            request = pb.SQSReceiveMessageRequest(visibility_timeout=60, wait_time=1, maximum_number_of_messages=10)
            receipts += [message.messageID for message in (await stub.ReceiveMessage(request, timeout=30)).messages]
        change = pb.SQSChangeVisibilityRequest(messageIDs=receipts[:1], visibility_timeout=90)
        await stub.ChangeVisibility(change, timeout=30)
        await stub.DeleteMessage(pb.SQSDeleteMessageRequest(messageID=receipts[0]), timeout=30)
        await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts[1:]), timeout=30)
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0


async def test_a_sidecar_that_is_deployed_may_do_what_it_calls(world: World, queue: Queue) -> None:
    """The stack gives it the queue's URL."""
    await receive_and_leave(world, queue, queue.url)
    assert needed(queue.proxy, "sqs") == actions(test_queue.sqs_statements(**test_queue.ON_SQS))


async def test_a_sidecar_in_a_pod_may_do_what_it_calls(world: World, queue: Queue) -> None:
    """The reader is told to give the queue's name."""
    await receive_and_leave(world, queue, queue.name)
    assert "`sqs:NAME`" in (KUBERNETES.parent / "README.md").read_text()
    assert needed(queue.proxy, "sqs") == actions(documented("sqs"))


@pytest.mark.parametrize("source", ["jetstream", "sqs", "sqs in a pod"])
async def test_the_archive_may_do_what_it_calls(world: World, queue: Queue, proxy: FaultyDynamoDB, source: str) -> None:
    """Rows, one that DynamoDB refuses, and what it gives back when it stops.

    The stack gives it the queue's URL, the reader of the manifests its name.
    """
    is_queue = source != "jetstream"
    named = queue.name if source == "sqs in a pod" else queue.url
    async with make_archive(world) as archive:
        archive.env = proxy.env
        env = {"ARCHIVE_SOURCE": f"sqs:{named}", VARIABLE: queue.env[VARIABLE]} if is_queue else {}

        async def publish(*bodies: str) -> None:
            queue.send(*bodies)
            await archive.publish_all((f"{SUBJECT}.1", body.encode(), None) for body in bodies)

        def refuse(action: str, call: dict[str, Any]) -> Any:
            return (
                refusal("ValidationException") if action == "BatchWriteItem" and "poison" in json.dumps(call) else None
            )

        stuck = asyncio.Event()

        async def stall(_action: str, _call: dict[str, Any]) -> None:
            stuck.set()
            await asyncio.Event().wait()

        async def is_archived() -> bool:
            return queue.left() == 0 if is_queue else await archive.is_archived()

        proxy.fault = refuse
        await publish("one", "poison", "two")
        async with archive.task(**env, SHUTDOWN_TIMEOUT="4") as task:
            await eventually(is_archived, within_s=30, what="rows, and a dead letter")
            proxy.fault = stall
            await publish("held")
            await asyncio.wait_for(stuck.wait(), 30)
            task.child.signal(signal.SIGTERM)
            assert await task.child.wait() == 0
    called = needed(proxy, "dynamodb") | needed(queue.proxy, "sqs")
    if source != "sqs in a pod":
        assert called == actions(test_archive.statements(**(test_archive.ON_SQS if is_queue else test_archive.ON)))
    if source != "sqs":
        assert called == actions([*documented("archive"), *(documented("sqs") if is_queue else ())])


async def test_the_service_may_do_what_it_calls(world: World, proxy: FaultyDynamoDB) -> None:
    """Seeding, each request, and `--check`."""
    env = {**proxy.env, **await world.with_adjustments(), "SEED_ROWS": "30"}
    async with (
        world.task(**env), world.client() as client, world.client("registrar") as registrar,
        world.client("teller") as teller,
    ):  # fmt: skip
        for _ in range(2):
            assert (await adjusting.adjust(teller, "1", 1, "a"))[0] == "OK"
        assert len(await adjusting.statement(teller, "1")) == 1
        await client.request(SUBJECT, b'{"client_id":"1"}', timeout=5)
        await client.request(GET_SUBJECT, b'{"client_id":"1","consistent":true}', timeout=5)
        created = await registrar.request(CREATE_SUBJECT, orjson.dumps({"name": "John Doe"}), timeout=5)
        assert b"client_id" in created.data
    assert (await check(world, **env))[0] == 0
    balances, ledger, index = test_stack.statements(template(), "TaskRole")
    assert of_tables(proxy) == {
        world.table: actions([balances]), world.adjustments: actions([ledger]), "by_sequence": actions([index]),
    }  # fmt: skip
    by_table = {each["Resource"].rpartition("/")[2]: actions([each]) for each in documented("customer")}
    assert by_table == {
        "customer-balances-DO": actions([balances]), "customer-adjustments-DO": actions([ledger]),
        "by_sequence": actions([index]),
    }  # fmt: skip


def of_tables(proxy: FaultyDynamoDB) -> dict[str, set[str]]:
    """What is called, by the table or the index that it is called on. A transaction takes what its items take.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
    """
    found: dict[str, set[str]] = {}
    for operation, call in proxy.calls:
        for item in call.get("TransactItems", ()):
            for kind, part in item.items():
                found.setdefault(part["TableName"], set()).add(permission("dynamodb", f"{kind}Item"))
        names = [call.get("IndexName") or call["TableName"]] if "TableName" in call else call.get("RequestItems", ())
        for name in names:
            found.setdefault(name, set()).add(permission("dynamodb", operation))
    return found


def documented(name: str) -> list[dict[str, Any]]:
    """The statements of a policy that a reader is given."""
    policy = json.loads((KUBERNETES / f"{name}.json").read_text())
    assert all(each["Effect"] == "Allow" and "ACCOUNT" in each["Resource"] for each in policy["Statement"])
    return list(policy["Statement"])


def test_operators_of_others_may_do_what_they_document() -> None:
    """Their calls are not ours to record: KEDA reads a queue's length, External Secrets the secrets that are named.

    https://keda.sh/docs/latest/scalers/aws-sqs/
    https://external-secrets.io/latest/provider/aws-secrets-manager/
    """
    for name, allowed in (("keda", "sqs:GetQueueAttributes"), ("external-secrets", "secretsmanager:GetSecretValue")):
        assert actions(documented(name)) == {allowed}
        service, _, operation = allowed.partition(":")
        assert permission(service, operation) == allowed


def test_no_other_document_names_actions() -> None:
    """One that does is to be compared above."""
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.[jmty]*")]
    assert {path.suffix for path in texts} == {".json", ".md", ".toml", ".yaml"}
    services = "|".join(map(re.escape, POLICIES))
    naming = {path for path in texts if re.search(rf"\b({services}):[A-Z][a-z]+[A-Z]\w+", path.read_text())}
    assert naming == set(KUBERNETES.iterdir())
    assert {path.stem for path in naming} == {"customer", "archive", "devices", "sqs", "keda", "external-secrets"}
