"""CloudWatch's metric math: parsed, typed and evaluated as its documentation says.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html: S is a scalar, TS a time series,
TS[] an array of time series. What the tables there do not list is refused, as CloudWatch does at deployment.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

S, TS, ARRAY, TEXT = "S", "TS", "TS[]", "text"
Series = list[float | None]
"""A value for each minute; None: no datapoint."""

_TOKEN: Final = re.compile(
    r"\s*(?:(\d+\.?\d*|\.\d+)|([A-Za-z_][A-Za-z0-9_]*)|(\"[^\"]*\"|'[^']*')|(&&|\|\||[=!<>]=|[-+*/^<>(),\[\]]))"
)
_LEVELS: Final = (("||", "OR"), ("&&", "AND"), ("==", "!=", "<", ">", "<=", ">="), ("+", "-"), ("*", "/"), ("^",))
_LEAVES: Final = {
    "text": r"\".*\"|'.*'",
    "number": r"[\d.]+",
    "keyword": "REPEAT|LINEAR",
    "id": "[a-z][A-Za-z0-9_]*",
}

Signature = Mapping[tuple[str, ...], str]
_SAME: Final[Signature] = {(TS,): TS, (ARRAY,): ARRAY}
_FOLDED: Final[Signature] = {(TS,): S, (ARRAY,): TS}
_OF_SERIES: Final[Signature] = {(TS,): TS}
_ONE_OF: Final[Signature] = {(ARRAY,): TS}
_SIGNATURES: Final[Mapping[str, Signature]] = {
    **dict.fromkeys(("ABS", "CEIL", "FLOOR", "LOG", "LOG10", "DIFF", "DIFF_TIME", "RATE", "RUNNING_SUM"), _SAME),
    **dict.fromkeys(("AVG", "MAX", "MIN", "SUM", "STDDEV", "DATAPOINT_COUNT"), _FOLDED),
    **dict.fromkeys(("MINUTE", "HOUR", "DAY", "DATE", "MONTH", "YEAR", "EPOCH", "SERVICE_QUOTA"), _OF_SERIES),
    **dict.fromkeys(("FIRST", "LAST"), _ONE_OF),
    "ANOMALY_DETECTION_BAND": {(TS,): ARRAY, (TS, S): ARRAY},
    "FILL": {(kind, filler): kind for kind in (TS, ARRAY) for filler in (TS, S, "keyword")},
    "IF": {
        (condition, *values): TS if TS in (condition, *values) else S
        for condition in (S, TS)
        for values in ((S,), (TS,), (S, S), (S, TS), (TS, S), (TS, TS))
    },
    "INSIGHT_RULE_METRIC": {(TEXT, TEXT): TS},
    "METRIC_COUNT": {(ARRAY,): S},
    "METRICS": {(): ARRAY, (TEXT,): ARRAY},
    "PERIOD": {(TS,): S},
    "REMOVE_EMPTY": {(ARRAY,): ARRAY},
    "SEARCH": {(TEXT, TEXT): ARRAY, (TEXT, TEXT, S): ARRAY},
    "SLICE": {(ARRAY, S): ARRAY, (ARRAY, S, S): ARRAY},
    "TIME_SERIES": {(S,): TS},
}
_OPERANDS: Final = {
    (S, S): S,
    (S, TS): TS,
    (TS, S): TS,
    (TS, TS): TS,
    (S, ARRAY): ARRAY,
    (ARRAY, S): ARRAY,
    (TS, ARRAY): ARRAY,
    (ARRAY, TS): ARRAY,
}


class UnsupportedError(Exception):
    """CloudWatch would refuse the expression."""


@dataclass(frozen=True)
class Node:
    """A part of an expression's tree, and what it is applied to."""

    kind: str
    value: str
    of: tuple[Node, ...] = ()


def parse(text: str) -> Node:
    """Raises `UnsupportedError` for what is not an expression."""
    tokens, at = [], 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if not found:
            raise UnsupportedError(f"{text[at:]!r} in {text!r}")
        tokens.append(found[found.lastindex or 0])
        at = found.end()
    parser = _Parser([*tokens, ""])
    tree = parser.expression(0)
    parser.take("")
    return tree


class _Parser:
    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def next(self) -> str:
        return self._tokens[self._at]

    def take(self, wanted: str | None = None) -> str:
        if wanted is not None and self.next != wanted:
            raise UnsupportedError(f"{wanted or 'the end'!r} expected, not {self.next!r}")
        self._at += 1
        return self._tokens[self._at - 1]

    def expression(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        tree = self.expression(level + 1)
        while self.next in _LEVELS[level]:
            tree = Node("operator", self.take(), (tree, self.expression(level + 1)))
        return tree

    def _unary(self) -> Node:
        if self.next == "-":
            return Node("operator", self.take(), (self._unary(),))
        if not self.next:
            raise UnsupportedError("it ends too early")
        return self._operand(self.take())

    def _operand(self, token: str) -> Node:
        if token == "(":
            tree = self.expression(0)
            self.take(")")
            return tree
        if token == "[":
            return Node("array", "[]", self._list("]"))
        if self.next == "(":
            self.take()
            return Node("function", token, self._list(")"))
        for kind, pattern in _LEAVES.items():
            if re.fullmatch(pattern, token):
                return Node(kind, token)
        raise UnsupportedError(f"{token!r} is neither a number nor an id, which begins with a lower-case letter")

    def _list(self, end: str) -> tuple[Node, ...]:
        if self.next == end:
            self.take()
            return ()
        found = [self.expression(0)]
        while self.next == ",":
            self.take()
            found.append(self.expression(0))
        self.take(end)
        return tuple(found)


def type_of(tree: Node, ids: Mapping[str, str]) -> str:
    """S, TS or TS[]; `ids` has the types of the other queries. Raises `UnsupportedError` as CloudWatch would."""
    if tree.kind in {"number", "text", "keyword"}:
        return {"number": S, "text": TEXT, "keyword": "keyword"}[tree.kind]
    if tree.kind == "id":
        if tree.value not in ids:
            raise UnsupportedError(f"nothing has the id {tree.value}")
        return ids[tree.value]
    kinds = tuple(type_of(part, ids) for part in tree.of)
    if tree.kind == "array":
        if not kinds or set(kinds) != {TS}:
            raise UnsupportedError(f"Unsupported operand type(s): Array[{', '.join(kinds)}]")
        return ARRAY
    if tree.kind == "operator":
        found = _OPERANDS.get(kinds) if len(kinds) == 2 else kinds[0] if kinds[0] in {S, TS, ARRAY} else None
    else:
        found = _SIGNATURES.get(tree.value, {}).get(kinds)
    if found is None:
        raise UnsupportedError(f"Unsupported operand type(s) for {tree.value}: {', '.join(kinds)}")
    return found


_OPERATORS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "^": operator.pow,
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
    "&&": lambda a, b: bool(a) and bool(b), "AND": lambda a, b: bool(a) and bool(b),
    "||": lambda a, b: bool(a) or bool(b), "OR": lambda a, b: bool(a) or bool(b),
}  # fmt: skip


def _if(condition: float | None, then: float | None, otherwise: float | None = None) -> float | None:
    return None if condition is None else then if condition else otherwise


def _fill(value: float | None, filler: float | None) -> float | None:
    return filler if value is None else value


_FUNCTIONS: Final[Mapping[str, Callable[..., float | None]]] = {"IF": _if, "FILL": _fill}
"""Those that the stack uses or may soon; another one is a KeyError, and a line here."""


def evaluate(tree: Node, series: Mapping[str, Series], minute: int) -> float | None:
    """The value of one minute; None where an operand has no datapoint, or a division is by zero."""
    if tree.kind == "number":
        return float(tree.value)
    if tree.kind == "id":
        return series[tree.value][minute]
    values: list[Any] = [evaluate(part, series, minute) for part in tree.of]
    if tree.kind == "function":
        return _FUNCTIONS[tree.value](*values)
    if None in values or (tree.value == "/" and values[1] == 0):
        return None
    return float(_OPERATORS[tree.value](*values) if len(values) == 2 else -values[0])
