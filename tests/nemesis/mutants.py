"""The service with one place changed, which the nemesis must find: `python -m tests.nemesis --mutant NAME`.

As a program, this is the service's, with the mutant that `VARIABLE` names. Nothing of it is in the product.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "NEMESIS_MUTANT"


@dataclass(frozen=True)
class Mutant:
    module: str
    old: str
    """What the module's source has once."""
    new: str


MUTANTS: Final[Mapping[str, Mutant]] = {
    "ack before write": Mutant(
        "service.writing.archiver",
        "result = await self._writer.write(left)",
        "self._source.acknowledge(batch.messages()); result = await self._writer.write(left)",
    ),
    "unconditional put": Mutant(
        "service.dynamodb.table",
        '"ConditionExpression": "attribute_not_exists(#k)",',
        '"ConditionExpression": "attribute_not_exists(#k) OR attribute_exists(#k)",',
    ),
    "message id per attempt": Mutant(
        "service.customer.events.publisher",
        "{reply}{end}{text}",
        "{reply}{end}{text.replace(self._id, secrets.token_hex(8))}",
    ),
    "delete unconfirmed": Mutant(
        "service.sources.jetstream.answers",
        "        confirmed = [False] * len(answers)\n",
        "        confirmed = [payload == DELETE for _, payload in answers]\n"
        "        for subject, payload in answers:\n"
        "            self._nc.post(subject, payload) if payload == DELETE else None\n",
    ),
    "credit never renewed": Mutant(
        "service.requests.credit",
        "if not self._is_open or not self._nc.is_connected:",
        "if self._answered or not self._is_open or not self._nc.is_connected:",
    ),
    "adjustment without its condition": Mutant(
        "service.customer.ledger.tables",
        '"ConditionExpression":"#b = :o AND %b"',
        '"ConditionExpression":"(#b = :o AND %b) OR attribute_exists(#b)"',
    ),
}


def launched(name: str) -> tuple[str, dict[str, str]]:
    """Return the module to launch, and its variables: the mutant's, or without a name the service's."""
    return (__name__, {VARIABLE: name}) if name else ("service", {})


def load(name: str) -> None:
    """Import the mutant in place of its module."""
    mutant = MUTANTS[name]
    spec = importlib.util.find_spec(mutant.module)
    assert spec
    assert spec.origin
    source = Path(spec.origin).read_text()
    assert source.count(mutant.old) == 1, f"{spec.origin} does not have this once: {mutant.old}"
    module = sys.modules[mutant.module] = importlib.util.module_from_spec(spec)
    exec(compile(source.replace(mutant.old, mutant.new), spec.origin, "exec", dont_inherit=True), module.__dict__)


if __name__ == "__main__":
    load(os.environ[VARIABLE])
    runpy.run_module("service", run_name="__main__", alter_sys=True)
