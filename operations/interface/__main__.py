"""`python -m operations.interface`: write docs/interface.md and docs/asyncapi.yaml; with --check, compare them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from operations.interface import asyncapi, page

DOCS: Final = Path(__file__).parents[2] / "docs"


def main() -> int:
    """Return exit code 1 if a document is out of date."""
    parser = argparse.ArgumentParser(prog="python -m operations.interface", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; name the documents that are not current")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documents")
    arguments = parser.parse_args()
    texts: Mapping[str, str] = {"interface.md": page.text(), "asyncapi.yaml": asyncapi.text()}
    if not arguments.check:
        for name, text in texts.items():
            (arguments.docs / name).write_text(text)
        return 0
    old = [name for name, text in texts.items() if not _is(arguments.docs / name, text)]
    if old:
        print(f"error: not current in {arguments.docs}: {', '.join(old)}; run make interface", file=sys.stderr)
    return 1 if old else 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
