"""Names that the role `devices` shares with devices, with its clients and with the provisioning of NATS (ADR 17)."""

from typing import Final

from service.contracts.requests import QUEUE_GROUP, discovery

SERVICE_NAME: Final = "devices"
GET_NAME: Final = "get"
GET_SUBJECT: Final = f"{SERVICE_NAME}.{GET_NAME}"
LIST_NAME: Final = "list"
LIST_SUBJECT: Final = f"{SERVICE_NAME}.{LIST_NAME}"

USER: Final = "devices"
INBOX_PREFIX: Final = "_INBOX_devices"

DEVICE_SCOPE: Final = "device"
"""The scoped signing key of all devices: a device's NATS user is named after its id."""
DEVICE_ID: Final = "[A-Za-z0-9_-]{1,36}"
"""Pattern of a device's id, one token of a subject and of permissions. Credentials are minted for no other id."""
DEVICE_PUBLISH: Final = ("data.{{name()}}.>", "connect.{{name()}}", "lwt.{{name()}}")
DEVICE_SUBSCRIBE: Final = ("pulse",)
PULSE_SUBJECT: Final = "pulse"
"""As an MQTT topic it is the same."""

MQTT_STREAM: Final = "$MQTT_msgs"
"""nats-server's own stream of QoS 1 messages. A device gets its PUBACK when its message is stored there."""
MQTT_RETAINED_STREAM: Final = "$MQTT_rmsgs"
MQTT_PREFIX: Final = "$MQTT.msgs."
"""A message's subject in that stream is this and its topic as a subject."""
DATA_CONSUMER: Final = "devices-data"
DATA_FILTER: Final = f"{MQTT_PREFIX}data.>"
LIFE_CONSUMER: Final = "devices-life"
LIFE_FILTERS: Final = (f"{MQTT_PREFIX}connect.>", f"{MQTT_PREFIX}lwt.>")
ACK_WAIT_S: Final = 30
MAX_ACK_PENDING: Final = 20_000
READING_BYTES: Final = 4096
"""Maximum bytes of a reading: a larger message becomes a dead letter."""

BUCKET: Final = "devices"
BUCKET_STREAM: Final = f"KV_{BUCKET}"
KEY_PREFIX: Final = f"$KV.{BUCKET}."
"""A device's record has its id as key; its timer has that key and `DUE`."""
DUE: Final = ".due"
LOCK_WEBHOOK: Final = "lock.webhook"
LOCK_PULSE: Final = "lock.pulse"
MARKERS_S: Final = 86_400
"""Seconds for which the marker of an expired timer is kept, for a process that was down."""
EXPIRY_CONSUMER: Final = "devices-expiry"
EXPIRY_FILTER: Final = f"{KEY_PREFIX}*{DUE}"

OUTAGES_STREAM: Final = "device-outages"
EVENT_PREFIX: Final = "devices.event."
"""An event's subject is this, `down.` or `up.`, and the device's id."""
WEBHOOK_CONSUMER: Final = "devices-webhook"

DEAD_STREAM: Final = "device-dead"
DEAD_SUBJECT: Final = "devices.dead"
"""A dead letter's subject is this and `.data` or `.life`."""
DEAD_BYTES: Final = 32 * 1024 * 1024

PARTITION_KEY: Final = "device"
SORT_KEY: Final = "reading"
TTL_ATTRIBUTE: Final = "expires_at"

LISTEN: Final = "127.0.0.1:3000"
GRPC_SERVICE: Final = "service.Query"

CONSUMERS: Final = (
    (MQTT_STREAM, DATA_CONSUMER),
    (MQTT_STREAM, LIFE_CONSUMER),
    (BUCKET_STREAM, EXPIRY_CONSUMER),
    (OUTAGES_STREAM, WEBHOOK_CONSUMER),
)
"""Stream and name of each consumer of the role. The control plane creates them before the first device connects."""

PUBLISH: Final = (
    *(f"$JS.API.CONSUMER.{verb}.{stream}.{name}" for stream, name in CONSUMERS for verb in ("MSG.NEXT", "INFO")),
    *(f"$JS.ACK.{stream}.{name}.>" for stream, name in CONSUMERS),
    *(f"$JS.ACK.*.*.{stream}.{name}.>" for stream, name in CONSUMERS),  # the form with domain and account: ADR-15
    *(f"$JS.API.STREAM.INFO.{stream}" for stream in (MQTT_STREAM, BUCKET_STREAM, OUTAGES_STREAM, DEAD_STREAM)),
    *(f"$JS.API.STREAM.MSG.GET.{stream}" for stream in (MQTT_STREAM, BUCKET_STREAM, OUTAGES_STREAM)),
    f"$JS.API.DIRECT.GET.{BUCKET_STREAM}",
    f"$JS.API.DIRECT.GET.{BUCKET_STREAM}.>",
    f"{KEY_PREFIX}>",
    f"{EVENT_PREFIX}*.*",
    f"{DEAD_SUBJECT}.*",
    PULSE_SUBJECT,
    "$SYS.REQ.USER.INFO",
)
"""Publish permissions of the role's NATS user, in addition to one response to each request."""

SUBSCRIBE: Final = (
    *(f"{subject} {QUEUE_GROUP}" for subject in (GET_SUBJECT, LIST_SUBJECT)),
    *discovery(SERVICE_NAME),
    f"{KEY_PREFIX}*",
    f"{INBOX_PREFIX}.>",
)
"""Subscribe permissions of the role's NATS user."""
