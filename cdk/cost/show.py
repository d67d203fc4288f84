"""`make cost`: the bills of the proof of concept and of production side by side, for the current settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aws_cdk import App
from aws_cdk import aws_ecs as ecs
from rich.console import Console
from rich.table import Table

from cdk import deployment, nag
from cdk.cost.bill import Bill, Item, bill, load_prices
from cdk.stack.stack import BalanceStack
from deploy.settings import Settings

ENVIRONMENTS: Final = ("poc", "production")
WIDTH: Final = 110
UTILISATIONS: Final = (0.1, 0.8)


def synthesized_bill(settings: Settings) -> Bill:
    """Return the bill of the template that `make synth` would write, without building the image."""
    app = App(builtin_cloud_formation_validation=False)  # `make synth` validates; here it would take ten seconds
    image = ecs.ContainerImage.from_registry("customer-balance")
    nag.acknowledge(BalanceStack(app, settings.stack_name, settings, image=image))
    return bill(app.synth().get_stack_by_name(settings.stack_name).template, load_prices())


def show() -> None:
    """Print both bills. The values in `settings.toml` apply to both; the rest are each environment's defaults."""
    console = Console(width=WIDTH, highlight=False)
    prices = load_prices()
    bills = [synthesized_bill(deployment.load_or_assume(environment=name)[0]) for name in ENVIRONMENTS]
    console.print(
        f"A month at list prices of {prices['region']}, {prices['as_of']}, in dollars; free tiers not counted"
    )
    table = Table("item", *(cell for name in ENVIRONMENTS for cell in (name, "$")), box=None, pad_edge=False)
    for number, column in enumerate(table.columns):
        column.no_wrap = True
        column.justify = "right" if number in {2, 4} else "left"
    _add(table, [found.items for found in bills])
    table.add_section()
    table.add_row("together", *(cell for found in bills for cell in ("", f"{found.dollars:.2f}")))
    capacity = [found.capacity_per_month / prices["hours_per_month"] / 3600 for found in bills]
    for share in UTILISATIONS:
        cells = [
            cell
            for found, per_second in zip(bills, capacity, strict=True)
            for cell in (f"{per_second * share:,.0f} requests/s", f"{found.per_million(share):.3f}")
        ]
        table.add_row(f"a million requests at {share:.0%}", *cells)
    table.add_row(
        "of it, a million requests' own", *(x for found in bills for x in ("", f"{found.dollars_per_million:.3f}"))
    )
    _add(table, [found.requests for found in bills], digits=3)
    table.add_section()
    table.add_row("what else is paid for by use")
    _add(table, [found.others for found in bills], digits=3)
    console.print(table)


def _add(table: Table, bills: Sequence[Sequence[Item]], digits: int = 2) -> None:
    """Add a row for each item; an item that a bill lacks is 0 in its column."""
    names = dict.fromkeys(item.name for items in bills for item in items)
    for name in names:
        found = [next((item for item in items if item.name == name), Item(name, "0", 0.0)) for items in bills]
        table.add_row(name, *(cell for item in found for cell in (item.quantity, f"{item.dollars:.{digits}f}")))
