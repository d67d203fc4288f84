"""The minute's figures are of that minute."""

from __future__ import annotations

from nats.micro.service import ServiceConfig

from service.customer.events import Events
from service.customer.metrics import Minute
from service.customer.micro import ConcurrentService
from service.dynamodb.table import Table
from service.runtime.nats_client import NatsClient
from service.runtime.tracing import NoTracing


async def test_what_was_counted_in_one_minute_is_not_counted_in_the_next() -> None:
    nc, table = NatsClient(lambda _: None, lambda: None), Table("balances", "id")
    config = ServiceConfig(name="customer", version="1.0.0", description="")
    service = ConcurrentService(nc, config, (), max_in_flight=1, tracing=NoTracing())
    events = Events(nc)
    minute = Minute(service, table, events)
    seen = []
    for dropped, keys in ((3, 10), (0, 0), (2, 4)):
        events.stats.dropped += dropped
        if keys:
            table.stats.batch_keys.observe(keys)
        figures = minute.figures(serving=True)
        seen.append((figures["EventsDropped"][0], figures["BatchSize"][0]))
    assert seen == [(3, 10), (0, 0), (2, 4)]
