"""Say in plain words what is wrong with a setting, in place of pydantic's messages and regular expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_FORMS: Final[Mapping[str, str]] = {
    r"^[a-zA-Z0-9_.-]{3,255}$": "a table's name: 3 to 255 letters, digits, `_`, `.` or `-`",
    r"^([a-zA-Z0-9_.-]{3,255})?$": "a table's name: 3 to 255 letters, digits, `_`, `.` or `-`",
    r"^(jetstream:[^\s.*>/\\]+|sqs:\S+)$": "jetstream:STREAM, or sqs:QUEUE",
    r"^[^\s.*>/\\]+$": "a name without white space and without any of . * > / \\",
    r"^[A-Za-z0-9_:/#$@ -]{1,255}$": "an attribute's name: 1 to 255 letters, digits, blanks or any of _ : / # $ @ -",
    r"^0?[0-7]{3}$": "an octal mode, such as 0660",
    r"^(vpc-[0-9a-f]{8,17})?$": "a VPC's id, such as vpc-0123abcd",
    r"^subnet-[0-9a-f]{8,17}$": "a subnet's id, such as subnet-0123abcd",
    r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$": "an e-mail address",
    r"^(https?://[^\s/]+.*)?$": "an HTTP address, such as http://collector.internal:4318",
}
_KMS: Final = ":kms:"
_SQS: Final = ":sqs:"


_KINDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "there is no setting of that name",
    "missing": "it is missing",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
}
"""Pydantic's kind of error -> what it means: https://docs.pydantic.dev/latest/errors/validation_errors/"""
_PHRASES: Final = (
    ("Value error, ", ""),
    ("Input should be ", "must be "),
    ("greater than or equal to ", "at least "),
    ("less than or equal to ", "at most "),
)


def in_words(error: Mapping[str, Any]) -> str:
    """Return what is wrong, from one of the errors that pydantic's `ValidationError.errors` lists."""
    if error["type"] == "string_pattern_mismatch":
        return f"must be {_form(error['ctx']['pattern'])}"
    if error["type"] in _KINDS:
        return _KINDS[error["type"]]
    message: str = error["msg"]
    for theirs, ours in _PHRASES:
        message = message.replace(theirs, ours)
    return message


def _form(pattern: str) -> str:
    if _KMS in pattern:
        return "the ARN of a KMS key"
    if _SQS in pattern:
        return "a queue's name or its ARN"
    return _FORMS.get(pattern, f"of the form {pattern}")
