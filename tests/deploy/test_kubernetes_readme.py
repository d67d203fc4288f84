"""What the page about Kubernetes says."""

from __future__ import annotations

import re

from service.contracts import archive, customer, devices
from tests.support.deploy.kustomize import FOLDER

README = (FOLDER / "README.md").read_text()


def test_it_names_every_part() -> None:
    for path in (*FOLDER.glob("components/*"), *FOLDER.glob("overlays/*"), *FOLDER.glob("permissions/*.json")):
        assert f"`{path.relative_to(FOLDER)}`" in README, path.name


def test_the_tables_have_the_keys_that_the_roles_use() -> None:
    rows = re.findall(r"(?m)^ *\| `([A-Z_]+_TABLE)` \| ([^|]+?) \| ?([^|]*?) ?\|$", README)
    assert {variable: tuple(re.findall(r"`(\w+)`", keys)) for variable, keys, _ in rows} == {
        "DDB_TABLE": (customer.KEY_ATTRIBUTE,),
        "ADJUSTMENTS_TABLE": (customer.ADJUSTMENTS_PARTITION_KEY, customer.ADJUSTMENTS_SORT_KEY),
        "ARCHIVE_TABLE": (archive.PARTITION_KEY, archive.SORT_KEY),
        "DEVICES_TABLE": (devices.PARTITION_KEY, devices.SORT_KEY),
    }
    more = {variable: re.findall(r"`(\w+)`", text) for variable, _, text in rows}
    assert more["ADJUSTMENTS_TABLE"] == [customer.ADJUSTMENTS_INDEX, customer.ADJUSTMENTS_INDEX_KEY]
    assert (more["ARCHIVE_TABLE"], more["DEVICES_TABLE"]) == ([archive.TTL_ATTRIBUTE], [devices.TTL_ATTRIBUTE])
