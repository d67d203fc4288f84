"""`python -m operations.export`: what it writes is what `operations.load` reads, from a table and from an export."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest

from local.servers import dynamodb
from operations.export.files import Export
from operations.s3 import S3Object
from tests.operations.loading import HEADER, command, csv_of, environment, items, numbered, written
from tests.support.world import World

ODD_NAMES = ['Doe, "J"', "Ünal", "O'Neill", "a;b"]


def export(folder: Path, rows: Sequence[Mapping[str, Any]], **summary: Any) -> Path:
    """Write the files of an export of two partitions and an empty one, as DynamoDB does.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html
    """
    data = folder / "data"
    data.mkdir(parents=True)
    files = []
    for name, part in (("a", rows[::2]), ("b", rows[1::2]), ("c", [])):
        text = "".join(f"{json.dumps({'Item': row})}\n" for row in part)
        (data / f"{name}.json.gz").write_bytes(gzip.compress(text.encode()))
        key = f"AWSDynamoDB/01693685827463-2d8752fd/data/{name}.json.gz"
        files.append({"itemCount": len(part), "md5Checksum": "-", "etag": "-", "dataFileS3Key": key})
    told = {"version": "2020-06-30", "s3Bucket": "exports", "itemCount": len(rows), "outputFormat": "DYNAMODB_JSON",
            "exportType": "FULL_EXPORT", **summary}  # fmt: skip
    (folder / "manifest-summary.json").write_text(json.dumps(told))
    (folder / "manifest-files.json").write_text("".join(f"{json.dumps(file)}\n" for file in files))
    return folder


async def exported(env: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    return await command(env, *arguments, module="operations.export")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_what_is_exported_is_loaded_again(world: World, tmp_path: Path, form: str) -> None:
    for number, name in enumerate(ODD_NAMES):
        world.put_item({"id": {"S": f"odd-{number}"}, "client_balance": {"N": "5"}, "name": {"S": name},
                        "created_at": {"S": "2024-01-23"}})  # fmt: skip
    world.put_rows({"rich": 10**15 + 1})
    path = written(tmp_path / "in.csv", csv_of(numbered(500)))
    env = environment(world)
    assert (await command(env, path, "--no-seed-flag"))[0] == 0
    before = sorted(items(world), key=lambda row: str(row["id"]["S"]))
    code, output, errors = await exported(
        env, "--format", form, "--segments", "3", "--to", str(tmp_path / f"out.{form}")
    )
    points = sum(numbered(500).values()) + 20 + 10**15 + 1
    assert (code, output, errors) == (0, "", f"505 clients with {points:,} points\n")
    engine = dynamodb.client(world.servers.dynamodb_env)
    engine.delete_table(TableName=world.table)
    await dynamodb.create_table(world.table, world.servers.dynamodb_env)
    code, output, _ = await command(env, str(tmp_path / f"out.{form}"), "--no-seed-flag")
    assert (code, output.startswith("505 rows written")) == (0, True)
    assert sorted(items(world), key=lambda row: str(row["id"]["S"])) == before


@pytest.mark.parametrize("where", ["folder", "s3"])
async def test_the_files_of_a_point_in_time_export(tmp_path: Path, moto: str, where: str) -> None:
    rows = [{"id": {"S": str(number)}, "client_balance": {"N": str(number)}, "adjustments": {"N": "2"}}
            for number in range(1, 3000)]  # fmt: skip
    folder = export(tmp_path / "export", rows)
    env = {"PATH": "", "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
           "AWS_ENDPOINT_URL_S3": moto}  # fmt: skip
    source = str(folder)
    if where == "s3":
        s3 = boto3.client("s3", region_name="eu-west-1", endpoint_url=moto, aws_access_key_id="k",
                          aws_secret_access_key="s")  # fmt: skip
        s3.create_bucket(Bucket="exports", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        prefix = "AWSDynamoDB/01693685827463-2d8752fd"
        for file in folder.rglob("*"):
            if file.is_file():
                s3.upload_file(str(file), "exports", f"{prefix}/{file.relative_to(folder)}")
        source = f"s3://exports/{prefix}/"
    code, output, errors = await exported(env, "--from", source)
    assert (code, errors) == (0, f"2,999 clients with {sum(range(3000)):,} points\n")
    assert sorted(output.splitlines()) == sorted([HEADER, *(f"{number},{number},," for number in range(1, 3000))])


async def test_rows_that_cannot_be_loaded_are_named_and_left_out(world: World) -> None:
    world.put_item({"id": {"S": "1"}, "client_balance": {"N": "5"}, "name": {"NULL": True}})
    for odd in (
        {"id": {"S": "text"}, "client_balance": {"S": "5"}}, {"id": {"S": "half"}, "client_balance": {"N": "0.5"}},
        {"id": {"S": "below"}, "client_balance": {"N": "-5"}}, {"id": {"S": "a.b"}, "client_balance": {"N": "5"}},
        {"id": {"S": "line"}, "client_balance": {"N": "5"}, "name": {"S": "a\nb"}},
        {"id": {"S": "name"}, "client_balance": {"N": "5"}, "name": {"N": "7"}},
        {"id": {"S": "date"}, "client_balance": {"N": "5"}, "created_at": {"N": "1700000000"}},
    ):  # fmt: skip
        world.put_item(odd)
    code, output, errors = await exported(environment(world))
    assert (code, output) == (3, f"{HEADER}\n1,5,,\n")
    *told, last = errors.splitlines()
    assert last == "1 clients with 5 points; 7 left out"
    assert sorted(line.partition(" is left out: ")[0] for line in told) == [
        "client 'a.b'", "client 'below'", "client 'date'", "client 'half'", "client 'line'", "client 'name'",
        "client 'text'",
    ]  # fmt: skip
    code, output, errors = await exported(environment(world), "--json", "--format", "jsonl")
    assert (code, output) == (3, '{"client_id":"1","balance":5}\n')
    assert json.loads(errors.splitlines()[-1]) == {"clients": 1, "points": 5, "left_out": 7}


def broken(folder: Path) -> Iterator[tuple[Path, str]]:
    rows = [{"id": {"S": str(number)}, "client_balance": {"N": "1"}} for number in range(100)]
    yield folder / "not-there", "manifest-summary.json cannot be read (No such file or directory)"
    yield export(folder / "ion", rows, outputFormat="ION"), "is an export in ION; export the table again"
    yield export(folder / "part", rows, exportType="INCREMENTAL_EXPORT"), "of the type INCREMENTAL_EXPORT"
    lacks = export(folder / "lacks", rows)
    (lacks / "data" / "b.json.gz").unlink()
    yield lacks, "data/b.json.gz cannot be read"
    cut = export(folder / "cut", rows)
    file = cut / "data" / "a.json.gz"
    file.write_bytes(file.read_bytes()[:-20])
    yield cut, "data/a.json.gz is cut off; copy it again"
    fewer = export(folder / "fewer", rows)
    (fewer / "data" / "a.json.gz").write_bytes(gzip.compress(b'{"Item":{}}\n'))
    yield fewer, "data/a.json.gz has 1 rows, and the manifest says 50"
    no_list = export(folder / "list", rows)
    (no_list / "manifest-files.json").write_text("{}\n")
    yield no_list, "manifest-files.json is not a manifest"


async def test_an_export_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """And the file to write keeps what it had."""
    to = tmp_path / "rows.csv"
    to.write_text("before")
    for folder, said in broken(tmp_path):
        code, _, errors = await exported({"PATH": ""}, "--from", str(folder), "--to", str(to))
        assert (code, said in errors, "Traceback" in errors) == (1, True, False), (said, errors)
        assert (to.read_text(), [*tmp_path.glob("*.new")]) == ("before", [])
    assert Export(str(export(tmp_path / "good", []))).items == 0


async def test_a_table_that_is_not_there_and_one_that_is_not_named(world: World) -> None:
    code, _, errors = await exported(environment(world, DDB_TABLE="not-there"))
    assert (code, errors) == (1, "error: table not-there does not exist; deploy the stack, or correct DDB_TABLE\n")
    code, _, errors = await exported(environment(world, DDB_TABLE=""))
    assert (code, "give the table, or set DDB_TABLE" in errors) == (2, True)


async def test_what_is_not_a_file_is_written_to(world: World, tmp_path: Path) -> None:
    """A link stays one, and a FIFO too."""
    world.put_rows({"1": 5})
    link, fifo, file = (tmp_path / name for name in ("link", "fifo", "rows.csv"))
    link.symlink_to(file)
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for to in (link, fifo):
            code, _, errors = await exported(environment(world), "--to", str(to))
            assert (code, errors) == (0, "1 clients with 5 points\n")
        assert (link.is_symlink(), file.read_text()) == (True, f"{HEADER}\n1,5,,\n")
        assert (fifo.is_fifo(), os.read(reading, 1000).decode()) == (True, f"{HEADER}\n1,5,,\n")
    finally:
        os.close(reading)


async def test_what_another_export_to_the_file_writes_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "rows.csv.new"
    other.write_text("another")
    source = export(tmp_path / "export", [{"id": {"S": "1"}, "client_balance": {"N": "5"}}])
    assert (await exported({"PATH": ""}, "--from", str(source), "--to", str(tmp_path / "rows.csv")))[0] == 0
    assert (other.read_text(), (tmp_path / "rows.csv").read_text()) == ("another", f"{HEADER}\n1,5,,\n")


async def test_rows_are_loaded_from_s3(world: World, tmp_path: Path, moto: str) -> None:
    s3 = boto3.client("s3", region_name="eu-west-1", endpoint_url=moto, aws_access_key_id="k",
                      aws_secret_access_key="s")  # fmt: skip
    bucket = world.table
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket=bucket, Key="in/rows.csv", Body=csv_of(numbered(7000)).encode())
    env = environment(world, AWS_ENDPOINT_URL_S3=moto)
    code, output, errors = await command(env, f"s3://{bucket}/in/rows.csv")
    assert (code, output.startswith("7,000 rows written"), errors) == (0, True, "")
    assert world.rows() == numbered(7000)
    content = csv_of(numbered(7000)).encode()
    assert b"".join(S3Object(f"s3://{bucket}/in/rows.csv", s3).blocks(70_000)) == content[70_000:]
    code, _, errors = await command(env, f"s3://{bucket}/in/other.csv")
    assert (code, f"error: s3://{bucket}/in/other.csv cannot be read" in errors) == (1, True)
    code, _, errors = await command(env, "s3:///rows.csv")
    assert (code, "names no bucket" in errors) == (1, True)
