"""Damaged raw files given to the reader of logs, as ExampleGen and `mixrank score` call it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import resource
import struct
import traceback
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from fault_parts.common import Ground, Tally, each_in_a_child
from fault_parts.damage import damaged

ROWS = 40
# Memory that the reading of a damaged file may take beyond what the process has.
MEMORY = 2 * 2**30
NAMES = ("person", "clip", "at", "page", "click", "note", "price", "tags")
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def raw(ground: Ground) -> list[Tally]:
    # For all children; what is mapped before the limit is set does not count.
    import tfx_bsl.coders.example_coder  # noqa: F401

    contents, found = good_files(), []
    for kind in KINDS:
        tally = Tally(f"raw files, {kind}", ground.tries(100))
        attempt = partial(_attempt, ground, kind, contents)
        each_in_a_child(tally, ground.folder / "said", attempt)
        found.append(tally)
    return found


def _attempt(ground: Ground, kind: str, contents: dict[str, bytes], number: int) -> list[str]:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    folder = ground.folder / "case"
    name = write_damaged(random.Random(f"{ground.seed} {kind} {number}"), kind, contents, folder)
    wrong = reading_is_wrong(folder, name)
    return [f"number {number}, {name}: {wrong}"] if wrong else []


def dataset(name: str, **options: Any) -> Any:
    """The declaration of a log with a column of every kind."""
    from mixrank import schemas as s

    separator = None if name.startswith(("a.jsonl", "a.parquet", "a.tfrecord")) else "|"
    spec = s.FeatureSpec(
        name="odd",
        user=s.Key("person", dtype="str"),
        item=s.Key("clip"),
        time=s.EventTime("at"),
        scenario=s.Scenario("page", values=("home",)),
        labels=(s.Label("click"),),
        features=(
            s.Categorical("person", group="user", dtype="str"),
            s.Categorical("clip", group="item"),
            s.Categorical("note", group="item", dtype="str"),
            s.Numeric("price", group="item"),
            s.MultiCategorical("tags", group="item", dtype="str", separator=separator, max_length=5),
            s.Action("action", flags=("click",)),
            s.TimeGap("gap"),
            s.History("past", of=("clip", "action", "gap"), length=3, window="before"),
        ),
    )
    return s.Dataset(
        spec=spec,
        source=s.LogSource(
            log=s.Table(files=(name,), **options),
            window=s.CalendarDay(),
            split=s.SplitByUserTail(valid=0.1, eval=0.1),
        ),
    )


def good_files() -> dict[str, bytes]:
    """Name -> bytes of the same rows in every format and codec."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = random.Random(5)
    rows: list[dict[str, Any]] = [
        {
            "person": f"ü{number % 7}",
            "clip": draw.randrange(100),
            "at": 1_700_000_000_000 + number * 60_000,
            "page": "home",
            "click": draw.random() < 0.3,
            "note": draw.choice(["plain", "two words", "007", None]),
            "price": draw.choice([0.5, 12.25, None]),
            "tags": draw.sample(["a", "b", "c"], draw.randrange(4)),
        }
        for number in range(ROWS)
    ]
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=15)
    plain = {
        "csv": _text(rows, ","),
        "tsv": _text(rows, "\t"),
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
        "parquet": sink.getvalue(),
        "tfrecord": b"".join(map(record, rows)),
    }
    found = {f"a.{format}": content for format, content in plain.items()}
    for format in ("csv", "jsonl", "tfrecord"):
        found |= {f"a.{format}.{codec}": packed(plain[format], codec) for codec in ("gz", "bz2", "xz", "zst", "lz4")}
    return found


def packed(content: bytes, codec: str) -> bytes:
    import pyarrow as pa

    if codec in PACKERS:
        return PACKERS[codec](content)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, {"zst": "zstd"}.get(codec, codec)) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _text(rows: list[dict[str, Any]], separator: str) -> bytes:
    def cell(value: Any) -> str:
        return "" if value is None else "|".join(value) if isinstance(value, list) else str(value)

    lines = [NAMES, *([cell(row[name]) for name in NAMES] for row in rows)]
    quoted = '"{}"' if separator == "," else "{}"
    return "".join(separator.join(map(quoted.format, line)) + "\n" for line in lines).encode()


def record(row: dict[str, Any]) -> bytes:
    """A row as a record of a TFRecord file."""
    import google_crc32c

    from mixrank.schemas.wire import entry, example

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    kinds: Any = {"clip": "int", "at": "int", "click": "int", "price": "float"}
    values = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
    present = {name: [each for each in value if each is not None] for name, value in values.items()}
    content = example(entry(name, kinds.get(name, "str"), value) for name, value in present.items() if value)
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _swapped(rng: random.Random, content: bytes) -> bytes:
    first, second = sorted(rng.sample(range(len(content)), 2))
    size = min(rng.choice([1, 8, 100]), second - first)
    one, other = content[first : first + size], content[second : second + size]
    return content[:first] + other + content[first + size : second] + one + content[second + size :]


def _repeated(rng: random.Random, content: bytes) -> bytes:
    first, last = sorted(rng.sample(range(len(content) + 1), 2))
    return content[:last] + content[first:last] * rng.choice([1, 3, 50]) + content[last:]


def _encoded(rng: random.Random, content: bytes) -> bytes:
    to = rng.choice(["latin-1", "utf-16", "utf-16-le", "utf-32", "cp500"])
    return content.decode(errors="ignore").encode(to, errors="replace")


def _packed(rng: random.Random, content: bytes) -> bytes:
    found = packed(content, rng.choice(["gz", "bz2", "xz", "zst", "lz4"]))
    return found if rng.random() < 0.3 else found[: rng.randrange(len(found))]


def _ends(rng: random.Random, content: bytes) -> bytes:
    """Damage among the last bytes: the footer of a Parquet file, the check sum of a compressed one."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        found[-rng.randint(1, min(len(found), rng.choice([8, 12, 1500])))] = rng.randrange(256)
    return bytes(found)


# Kind -> what is done to the bytes of a file; `joined` and `renamed` need another file.
KINDS: dict[str, Any] = {
    "damaged": damaged,
    "cut off": _cut,
    "swapped": _swapped,
    "repeated": _repeated,
    "encoded otherwise": _encoded,
    "packed": _packed,
    "damaged ends": _ends,
    "twice damaged": lambda rng, content: damaged(rng, damaged(rng, content)),
    "joined": None,
    "renamed": None,
}


def write_damaged(rng: random.Random, kind: str, contents: dict[str, bytes], folder: Path) -> str:
    """Writes a damaged file, the only one of a folder; its name."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    name, other = rng.choice(list(contents)), rng.choice(list(contents))
    match kind:
        case "joined":
            content = contents[name] + contents[rng.choice([name, other])]
        case "renamed":
            content = contents[other]
        case _ if rng.random() < 0.3 and name.count(".") == 2:
            # The damage was done before the file was compressed.
            format, _, codec = name.rpartition(".")
            content = packed(KINDS[kind](rng, contents[format]), codec)
        case _:
            content = KINDS[kind](rng, contents[name])
    (folder / name).write_bytes(content)
    return name


def reading_is_wrong(folder: Path, name: str, whole: bool = False) -> str:
    """What is wrong with the way that a file is read; nothing if it gives rows or an error that names it.

    Args:
        folder: with the file and nothing else.
        name: of the file.
        whole: whether every row must be good.
    """
    for read in (_in_training, _in_scoring):
        numbers, bad, said = list[int](), list[int](), ""
        try:
            said = read(folder, name, numbers, bad)
        except (ValueError, OSError) as error:
            said = str(error)
            if isinstance(error, OSError) and error.errno is None:
                return traceback.format_exc()[-1500:]
        except Exception:
            return traceback.format_exc()[-1500:]
        if len({*numbers, *bad}) != len(numbers) + len(bad):
            return f"a row is read twice: good are {numbers}, bad are {bad}"
        if whole and (said or bad or len(numbers) != ROWS):
            return f"{len(numbers)} rows, {len(bad)} bad ones: {said}"
        if said and name not in said:
            return f"the error does not name the file: {said}"
    return ""


def _in_training(folder: Path, name: str, good: list[int], bad: list[int]) -> str:
    """Collects the numbers of the rows that ExampleGen reads; the error that it reports."""
    from mixrank.components.examples.raw_tables import find_tables
    from mixrank.components.examples.stages import ReadPiece

    tables = find_tables(dataset(name), str(folder))
    for number, piece in tables["log"].pieces():
        list(ReadPiece(tables, 1, str(folder)).process(("log", number, piece)))
        (report,) = folder.glob("read-*.json")
        summary = json.loads(report.read_text())
        report.unlink()
        bad += [letter["row"] for letter in summary["bad"]]
        good += [row for path in summary["batches"] for row in _rows(path)]
        if "error" in summary:
            return str(summary["error"])
    return ""


def _in_scoring(folder: Path, name: str, good: list[int], bad: list[int]) -> str:
    """Collects the numbers of the rows that `mixrank score` reads."""
    from mixrank.schemas.encode import Column
    from mixrank.schemas.raw import find_files
    from mixrank.serving.batch_scoring.row_files import read_rows

    columns = (Column("person", "str"), Column("clip", "int"), Column("note", "str"), Column("price", "float"))
    (file,) = find_files(dataset(name).source.log, str(folder)).files
    present = file.schema().names
    for batch in file.read([column.name for column in columns if column.name in present]):
        try:
            wrong = read_rows(columns, {}, batch.table).bad
        except ValueError as error:
            # The job adds the name of the file.
            return f"{name}: {error}"
        numbers = batch.rows.tolist()
        bad += [number for number, _, _ in batch.bad]
        bad += [number for place, number in enumerate(numbers) if place in wrong]
        good += [number for place, number in enumerate(numbers) if place not in wrong]
    return ""


def _rows(path: str) -> list[int]:
    import pyarrow as pa

    from mixrank.components.examples.joined_log import ROW

    with pa.OSFile(path) as source:
        return list(pa.ipc.open_file(source).read_all()[ROW].to_pylist())
