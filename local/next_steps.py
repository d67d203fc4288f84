"""The commands that `up` prints when everything runs, ready to paste."""

from __future__ import annotations

import sys
from shlex import quote

from control_plane.desired import GATEWAY, REGISTRAR, TELLER
from local.process import ROOT
from local.scaling.supervisor import TABLE as ARCHIVE_TABLE
from local.state import State
from local.system import ADJUSTMENTS, TABLE, System, Task
from service.contracts import customer as contract
from service.contracts import devices, queue
from service.contracts.stream import STREAM


def next_steps(system: System, *, archive: bool = False) -> str:
    state: State = system.state
    users = ("client", "teller", "service", "viewer")
    client, teller, service, viewer = (quote(str(state.files.creds_path(user))) for user in users)
    python, folder = quote(sys.executable), quote(str(state.folder))
    env = " \\\n    ".join(f"{name}={value}" for name, value in system.dynamodb_env.items())
    metrics = "\n".join(map(_metrics, system.tasks)) or "  (no task yet)"
    return f"""
[bold]In another terminal[/]
  cd {quote(str(ROOT))}

[bold]A balance over NATS[/]
  nats --server {system.nats_url} --creds {client} req customer.balance '{{"client_id":"678"}}'

[bold]The same without --server and --creds, once this is the context of the nats CLI[/]
  nats context add customer-balance --server {system.nats_url} --creds {client} --select
  nats req customer.balance '{{"client_id":"678"}}'

[bold]The same over HTTP[/]
  curl -X POST "{system.gateway_url}/v1/nats/subjects/customer.balance" \\
    -H "accept: text/plain" -H "authorization: {system.gateway_tokens[GATEWAY.name]}" \\
    -H "content-type: application/json" -d '{{"client_id":"678"}}'

[bold]Create a client, and read it[/]
  curl -X POST "{system.gateway_url}/v1/nats/subjects/{contract.CREATE_SUBJECT}" \\
    -H "authorization: {system.gateway_tokens[REGISTRAR.name]}" \\
    -d '{{"client_id":"john","name":"John Doe","created_at":"2024-01-23"}}'
  nats --server {system.nats_url} --creds {client} req {contract.GET_SUBJECT} '{{"client_id":"john"}}'

[bold]Points redeemed, and what there was[/]
  curl -X POST "{system.gateway_url}/v1/nats/subjects/{contract.ADJUST_SUBJECT}" \\
    -H "authorization: {system.gateway_tokens[TELLER.name]}" \\
    -d '{{"client_id":"678","points":-50,"adjustment_id":"order-9913","reason":"redeemed"}}'
  nats --server {system.nats_url} --creds {teller} req {contract.ADJUST_SUBJECT} \\
    '{{"client_id":"678","points":-50,"adjustment_id":"order-9913"}}'
  nats --server {system.nats_url} --creds {client} req {contract.STATEMENT_SUBJECT} '{{"client_id":"678"}}'

[bold]The events as they come, the stream and the bucket, as user viewer[/]
  nats --server {system.nats_url} --creds {viewer} sub 'customer.balance.*'
  nats --server {system.nats_url} --creds {viewer} stream view {STREAM}
  nats --server {system.nats_url} --creds {viewer} kv get {contract.BUCKET} {contract.SEED_KEY}
{_queue_steps(system.queue_listen)}{_devices_steps(system)}{_archive_steps(env) if archive else ""}
[bold]Statistics of every task[/]
  nats --server {system.nats_url} --creds {client} micro stats {contract.SERVICE_NAME}

[bold]A service of your own[/]
  env NATS_URL={system.nats_url} NATS_CREDENTIALS="$(base64 < {service} | tr -d '\\n')" \\
    DDB_TABLE={TABLE} ADJUSTMENTS_TABLE={ADJUSTMENTS} HEALTH_PORT=0 \\
    {env} \\
    {python} -m service

[bold]Metrics of each task; kill one, and another takes its place[/]
{metrics}

[bold]Logs[/]
  tail -f {folder}/logs/*.log

[bold]The control plane on this server[/]
  {python} -m control_plane list --server {system.nats_url} \\
    --operator {quote(str(state.operator_path))} --system-creds {quote(str(state.system_creds_path))}

Ctrl-C stops everything; the state stays in {state.folder}. This empties it:
  {python} -m local reset --state {folder}
"""


def _metrics(task: Task) -> str:
    return f"  curl {task.health_url}/metrics    # {task.child.name}, process {task.child.pid}"


def _archive_steps(env: str) -> str:
    return f"""
[bold]A client's archived events, newest first[/]
  env {env} \\
    {quote(sys.executable)} -m operations.history {ARCHIVE_TABLE} 678
"""


def _devices_steps(system: System) -> str:
    if not system.devices_listen:
        return ""
    client, folder = (quote(str(path)) for path in (system.state.files.creds_path("client"), system.state.folder))
    return f"""
[bold]A device of your own: it prints how the device publishes[/]
  {quote(sys.executable)} -m local device greenhouse --state {folder}
  nats --server {system.nats_url} --creds {client} req {devices.GET_SUBJECT} '{{"device":"greenhouse"}}'
  grpcurl -plaintext -d '{{"device":"greenhouse","limit":3,"newest_first":true}}' \\
    {system.devices_listen} {devices.GRPC_SERVICE}/GetDeviceRows
"""


def _queue_steps(listen: str) -> str:
    if not listen:
        return ""
    return f"""
[bold]The events as messages, for a container of your own[/]
  SIDECAR={listen} {quote(sys.executable)} -m examples.queue_client
  docker run --rm --network host -e SIDECAR={listen} YOUR-IMAGE
  grpcurl -plaintext -d '{{"visibility_timeout":30,"wait_time":5,"maximum_number_of_messages":10}}' \\
    {listen} {queue.GRPC_SERVICE}/ReceiveMessage
"""
