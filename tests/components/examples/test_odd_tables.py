"""Tables of odd values in every format and codec: every row is read right or refused, in training and in scoring."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from fault_parts.raw_logs import KINDS, NAMES, dataset, good_files, packed, reading_is_wrong, record, write_damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank.components.examples.joined_log import ROW
from mixrank.components.examples.raw_tables import find_tables
from mixrank.components.examples.stages import ReadPiece
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.encode import PADDING, Column
from mixrank.schemas.raw import RawFile, find_files, text
from mixrank.schemas.raw.raw_file import WHOLE
from mixrank.serving.batch_scoring.row_files import Texts, read_rows

MISSING = {"", "nan", "NaN", "null", "NULL", "\\N"}
WORDS = [
    *MISSING, " ", '"', '""', 'a"b', '"a', ",", ";", "\t", "\n", "\r\n", "a\r", "\\", '\\"', "'", "007", "-", "N/A",
    "1e5", "0x10", "True", "\x00", "a\x00b", "\x1a", "\x7f", "\ufeff", "\u2028", "\x85", "é", "名前", "👍🏽", "x" * 300,
    "=1+1", "[1]", "{}", "#", "//",
]  # fmt: skip
SCORED = (
    Column("person", "str", required=True), Column("clip", "int", required=True), Column("note", "str"),
    Column("price", "float"),
)  # fmt: skip
BAD = object()
# Of JSON and TFRecord, a column is known by a row that has it.
GOOD = ("u1", 1, 1_600_000_000_000, "home", True, "plain", 0.5, ["a"])

TEXTS = st.sampled_from(WORDS) | st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
INTS = st.sampled_from([0, 7, -7, 2**31, 2**53 + 1, 2**63 - 1, -(2**63) + 1, -(2**63), 2**63, 2**64, 10**30])
FLOATS = st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -3.5e38, 3.4028235e38, 5e-324, -0.0, 0.1]) | st.floats()
TIMES = st.integers(0, 7_258_118_399_999) | st.sampled_from([0, -1, 7_258_118_400_000, 2**62])
# Most values are good, so that most rows are.
ROWS = st.tuples(
    st.just("u1") | TEXTS,
    st.integers(-100, 100) | INTS | st.none(),
    st.integers(1_600_000_000_000, 1_800_000_000_000) | TIMES,
    st.just("home") | TEXTS | st.none(),
    st.booleans() | st.sampled_from([0, 1, True, False, 2, None]),
    TEXTS | st.none(),
    FLOATS | st.integers(-1000, 1000).map(float) | st.none(),
    st.lists(TEXTS.map(lambda value: value.replace("|", "")) | st.none(), max_size=3) | st.none(),
)
# A row that has the wrong number of values, or is no JSON.
TABLES = st.lists(ROWS | st.just("broken"), min_size=1, max_size=8)


def word(value):
    value = None if value is None else value.strip()
    return None if value in MISSING else value


def right(row):
    """Column -> what the declaration makes of a row; `BAD` where it must be refused."""
    person, clip, at, page, click, note, price, tags = row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = price is not None and bool(np.isfinite(np.float32(price)))
    return {
        "person": word(person) or BAD,
        "clip": clip if clip is not None and -(2**63) < clip < 2**63 else BAD,
        "at": at if 0 <= at < 7_258_118_400_000 else BAD,
        "page": word(page),
        "click": int(click) if click in (0, 1) else BAD,
        "note": word(note),
        "price": None if price is None or math.isnan(price) else price if fits else BAD,
        "tags": [value for value in map(word, tags or ()) if value is not None],
    }


def cell(value):
    if isinstance(value, list):
        return "|".join("" if each is None else each for each in value)
    return "" if value is None else str(value)


@dataclass(frozen=True)
class Layout:
    """How a table is written: what a writer is free to choose."""

    format: str
    codec: str | None
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        return {
            "csv": {"separator": random.Random(self.seed).choice(",;")},
            "spark": {"escape": "backslash"},
            "headless": {"columns": NAMES},
        }.get(self.format, {})

    @property
    def name(self) -> str:
        ending = {"json": "jsonl", "parquet": "parquet", "tsv": "tsv", "tfrecord": "tfrecord"}.get(self.format, "csv")
        return f"a.{ending}" + (f".{self.codec}" if self.codec else "")

    def write(self, folder, rows):
        content = getattr(self, f"_{self.format}")(rows, random.Random(self.seed))
        (folder / self.name).write_bytes(packed(content, self.codec) if self.codec else content)

    def _csv(self, rows, draw):
        # Python quotes a carriage return only where it ends rows, or everywhere.
        end, quoting = draw.choice([("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)])
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=self.options.get("separator", ","), lineterminator=end, quoting=quoting)
        header = [] if self.format == "headless" else [NAMES]
        writer.writerows(header + [["a", "b"] if row == "broken" else [*map(cell, row)] for row in rows])
        return stream.getvalue().encode(draw.choice(["utf-8", "utf-8-sig"]))

    _headless = _csv

    def _spark(self, rows, draw):
        def quoted(value):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

        lines = ["a,b" if row == "broken" else ",".join(quoted(cell(value)) for value in row) for row in rows]
        return "\n".join([",".join(NAMES), *lines, ""]).encode()

    def _tsv(self, rows, draw):
        lines = ["a\tb" if row == "broken" else "\t".join(map(cell, row)) for row in rows]
        return "".join(f"{line}\n" for line in ["\t".join(NAMES), *lines]).encode()

    def _json(self, rows, draw):
        lines = []
        for row in rows:
            if row == "broken":
                lines.append('{"person": "u1", ')
                continue
            cells = zip(NAMES, row, strict=True)
            kept = {name: value for name, value in cells if value is not None or draw.random() < 0.5}
            lines.append(json.dumps(kept, ensure_ascii=draw.random() < 0.5))
        return "\n".join(lines).encode()

    def _parquet(self, rows, draw):
        types = {
            "clip": [pa.int64(), pa.uint64(), pa.decimal128(38, 0)],
            "at": [pa.int64(), pa.timestamp("ms"), pa.timestamp("ms", "Europe/Berlin")],
            "click": [pa.bool_(), pa.int8(), pa.float32()],
            "price": [pa.float64()],
            "tags": [pa.list_(pa.string()), pa.large_list(pa.large_string())],
        }
        columns = {}
        for name, values in zip(NAMES, zip(*rows, strict=True), strict=True):
            choice = types.get(name, [pa.string(), pa.large_string(), pa.binary(), None])
            columns[name] = stored(values, draw.sample(choice, len(choice)))
        sink = io.BytesIO()
        size, codec = draw.choice([1, 2, 100]), draw.choice(["snappy", "zstd", "gzip", "none"])
        pq.write_table(pa.table(columns), sink, row_group_size=size, compression=codec)
        return sink.getvalue()

    def _tfrecord(self, rows, draw):
        return b"".join(record(dict(zip(NAMES, row, strict=True))) for row in rows)


def stored(values, types):
    """Values as the first type that can hold all of them, else as text."""
    for kind in types:
        try:
            return pa.array(values).dictionary_encode() if kind is None else pa.array(values, kind)
        except (pa.ArrowException, OverflowError, TypeError):
            pass
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def able(layout, rows):
    """The rows that a format can hold."""
    if layout.format in ("parquet", "tfrecord"):
        rows = [row for row in rows if row != "broken"]
    if layout.format == "tsv":
        spaces = str.maketrans("\t\r\n", "   ")
        rows = [row if row == "broken" else tuple(spaced(value, spaces) for value in row) for row in rows]
    if layout.format == "tfrecord":
        rows = [row for row in rows if row[1] is None or -(2**63) <= row[1] < 2**63]
        rows = [row for row in rows if right(row)["price"] is not BAD]
        # It has floats of 32 bits.
        rows = [(*row[:6], row[6] and np.float32(row[6]).item(), row[7]) for row in rows]
    return rows


def spaced(value, spaces):
    if isinstance(value, list):
        return [each and each.translate(spaces) for each in value]
    return value.translate(spaces) if isinstance(value, str) else value


def in_training(folder, layout):
    """number -> values of every good row, and number -> column of every bad one, as ExampleGen reads a log."""
    tables = find_tables(dataset(layout.name, **layout.options), str(folder))
    scratch = folder / "scratch"
    scratch.mkdir()
    good, bad = {}, {}
    for number, piece in tables["log"].pieces():
        list(ReadPiece(tables, 1, str(scratch)).process(("log", number, piece)))
        (report,) = scratch.glob("*.json")
        summary = json.loads(report.read_text())
        report.unlink()
        assert "error" not in summary, summary["error"]
        for path in summary["batches"]:
            with pa.OSFile(path) as source:
                found = pa.ipc.open_file(source).read_all()
            rows = found[ROW].to_pylist()
            assert rows == sorted(rows) and not set(rows) & set(good), "a row is out of order or doubled"
            good |= dict(zip(rows, found.select(NAMES).to_pylist(), strict=True))
        for letter in summary["bad"]:
            assert letter["file"] == str(folder / layout.name) and letter["reason"]
            assert letter["row"] not in bad, "a bad row is reported twice"
            bad[letter["row"]] = letter["column"]
    for row in good.values():
        row["tags"] = row["tags"] or []
    return good, bad


def in_scoring(folder, layout, size):
    """As `in_training`, as `mixrank score` reads rows."""
    table = dataset(layout.name, **layout.options).source.log
    (file,) = find_files(table, str(folder)).files
    good, bad = {}, {}
    for batch in file.read([column.name for column in SCORED], size=size):
        rows = read_rows(SCORED, {}, batch.table)
        for place, number in enumerate(batch.rows.tolist()):
            if place in rows.bad:
                bad[number], _ = rows.bad[place]
            else:
                good[number] = {column.name: scored(rows.inputs[column.name], place, column) for column in SCORED}
        bad |= {number: None for number, _, _ in batch.bad}
    return good, bad


def scored(values, place, column):
    value = values.values[values.codes[place]].decode() if isinstance(values, Texts) else values[place].item()
    return None if value == PADDING[column.kind] or value != value else value


def check(good, bad, rows, names):
    """Every row is read right or refused for one of its columns."""
    expected = dict(enumerate(rows, 1))
    assert set(good) | set(bad) == set(expected) and not set(good) & set(bad)
    for number, row in expected.items():
        if row == "broken":
            assert bad.get(number, "good") is None
            continue
        wrong = {name for name in names if row[name] is BAD}
        if wrong:
            assert bad.get(number, "good") in wrong
        else:
            assert good.get(number, bad.get(number)) == {name: row[name] for name in names}


def write_and_read(layout, rows, block, size):
    rows = able(layout, [GOOD, *rows])
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_BYTES", block)
        patch.setattr(RawFile.read, "__defaults__", (WHOLE, size))
        folder = Path(name)
        layout.write(folder, rows)
        expected = [row if row == "broken" else right(row) for row in rows]
        check(*in_training(folder, layout), expected, NAMES)
        for row in expected:
            if row != "broken" and row["price"] not in (None, BAD):
                # A model takes 32 bits.
                row["price"] = np.float32(row["price"]).item()
        check(*in_scoring(folder, layout, size), expected, [column.name for column in SCORED])


CODECS = st.sampled_from([None, "gz", "bz2", "xz", "zst", "lz4"])
TEXT_LAYOUTS = st.builds(
    Layout, st.sampled_from(["csv", "tsv", "spark", "headless", "json"]), CODECS, st.integers(0, 99)
)
BLOCKS, SIZES = st.sampled_from([1, 40, 1000, 2**23]), st.sampled_from([1, 2, 1000])


@pytest.mark.slow
@settings(max_examples=80)
@given(layout=TEXT_LAYOUTS, rows=TABLES, block=BLOCKS, size=SIZES)
def test_an_odd_table_of_text_is_read_right_or_refused_row_by_row(layout, rows, block, size):
    write_and_read(layout, rows, block, size)


@pytest.mark.slow
@settings(max_examples=50)
@given(seed=st.integers(0, 99), rows=TABLES, size=SIZES)
def test_an_odd_parquet_table_is_read_right_or_refused_row_by_row(seed, rows, size):
    write_and_read(Layout("parquet", None, seed), rows, 1, size)


@settings(max_examples=30)
@given(codec=CODECS, rows=TABLES, size=SIZES)
def test_odd_tf_examples_are_read_right_or_refused_row_by_row(codec, rows, size):
    write_and_read(Layout("tfrecord", codec, 0), rows, 1, size)


BROKEN = pa.array([b"good", b"\xff"], pa.binary()).cast(pa.string(), safe=False)


@pytest.mark.parametrize(
    ("column", "array", "shown"),
    [
        ("note", BROKEN, "\ufffd"),
        ("note", BROKEN.dictionary_encode(), "\ufffd"),
        ("tags", pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), BROKEN), r"[b'\xff']"),
        ("at", pa.array([1_600_000_000_000, 2**62], pa.timestamp("ms")), 2**62),
        ("at", pa.array([1_600_000_000_000, -(2**60)], pa.timestamp("us", "Asia/Tokyo")), -(2**60)),
        ("at", pa.array([18_000, 2**30], pa.int32()).cast(pa.date32()), 2**30),
    ],
)
def test_a_value_that_python_cannot_hold_is_one_bad_row(tmp_path, column, array, shown):
    columns = dict(zip(NAMES, ([value] * 2 for value in GOOD), strict=True)) | {column: array}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    tables = find_tables(dataset("a.parquet"), str(tmp_path))
    list(ReadPiece(tables, 1, str(tmp_path)).process(("log", 0, WHOLE)))
    (report,) = tmp_path.glob("read-*.json")
    summary = json.loads(report.read_text())
    assert "error" not in summary and summary["rows"] == 2
    assert [(bad["row"], bad["column"], bad["value"]) for bad in summary["bad"]] == [(2, column, shown)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_rows_or_an_error_that_names_it(kind, tmp_path):
    contents = good_files()
    for number in range(15):
        name = write_damaged(random.Random(f"{kind} {number}"), kind, contents, tmp_path)
        assert not reading_is_wrong(tmp_path, name), (number, name)


def test_the_files_that_are_damaged_are_good_before(tmp_path):
    for name, content in good_files().items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content)
        assert reading_is_wrong(folder, name, whole=True) == ""
