"""Files that nobody meant to write: rows or a `ValueError` that names the file, never anything else."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.raw import files_at, find_files, text
from mixrank.schemas.tables import Table

CELLS = st.text(st.sampled_from('ab ,;"\n\r\\é'), max_size=6)


def read(path, **options):
    """(row, values) of all rows and (row, reason) of bad ones, or the refusal."""
    (file,) = find_files(Table(files=(path.name,), **options), str(path.parent)).files
    found = []
    try:
        for batch in file.read(file.schema().names):
            found += [(int(n), tuple(row.values())) for n, row in zip(batch.rows, batch.table.to_pylist(), strict=True)]
            found += [(row, reason) for row, _, reason in batch.bad]
    except ValueError as error:
        assert path.name in str(error), error
        return sorted(found, key=lambda row: row[0]), str(error).split(" within ")[0]
    return sorted(found, key=lambda row: row[0]), None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.text(st.sampled_from('ab,"\n\r\\'), max_size=60),
    block=st.integers(1, 40),
    options=st.sampled_from([{}, {"escape": "backslash"}, {"quotes": False}, {"columns": ("x", "y")}]),
)
@example(body='"\r\n"', block=3, options={})
@example(body='\\\r"', block=1, options={})
def test_any_text_gives_the_same_rows_at_any_block_size(tmp_path, monkeypatch, body, block, options):
    (tmp_path / "t.csv").write_bytes(b"h,i\n" + body.encode())
    monkeypatch.setattr(text, "BLOCK_BYTES", 2**20)
    whole = read(tmp_path / "t.csv", **options)
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    assert read(tmp_path / "t.csv", **options) == whole


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=8),
    block=st.integers(1, 60),
    form=st.sampled_from([{}, {"quotes": True, "separator": "\t"}, {"separator": ";"}, {"escape": "backslash"}]),
)
def test_what_a_csv_writer_wrote_is_read_back(tmp_path, monkeypatch, table, block, form):
    backslash = "escape" in form
    stream = io.StringIO()
    # Spark's way: quotes and backslashes inside a value have a backslash before them.
    escaped = [[cell.replace("\\", "\\\\") if backslash else cell for cell in row] for row in table]
    writer = csv.writer(
        stream,
        delimiter=form.get("separator", ","),
        quoting=csv.QUOTE_ALL,
        doublequote=not backslash,
        escapechar="\\" if backslash else None,
    )
    writer.writerow("abc")
    if backslash:
        quoted = ['"' + '","'.join(cell.replace('"', '\\"') for cell in row) + '"\r\n' for row in escaped]
        stream.write("".join(quoted))
    else:
        writer.writerows(table)
    (tmp_path / "t.csv").write_bytes(stream.getvalue().encode())
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    expected = [(n, tuple(cell.encode() or None for cell in row)) for n, row in enumerate(table, 1)]
    assert read(tmp_path / "t.csv", **form) == (expected, None)


def good_files(folder):
    """A small good file of every format and codec."""
    rows = [{"user": n, "tags": ["a", "b"], "price": n / 7, "name": f'Müller {n}, "x"\ny'} for n in range(40)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "t.parquet", row_group_size=16)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([["user", "price", "name"], *([row["user"], row["price"], row["name"]] for row in rows)])
    texts = {"csv": stream.getvalue().encode(), "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
    for ending, content in texts.items():
        (folder / f"t.{ending}").write_bytes(content)
        for codec, compress in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.items():
            (folder / f"t.{ending}.{codec}").write_bytes(compress(content))
        for codec, name in {"zst": "zstd", "lz4": "lz4"}.items():
            with pa.CompressedOutputStream(str(folder / f"t.{ending}.{codec}"), name) as sink:
                sink.write(content)
    return sorted(folder.iterdir())


def mutated(draw, content):
    """Bytes cut off, taken out, swapped, overwritten, repeated, or in another encoding."""
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    match draw.randrange(6):
        case 0:
            return content[:stop]
        case 1:
            return content[:start] + content[stop:]
        case 2:
            middle = (start + stop) // 2
            return content[:start] + content[middle:stop] + content[start:middle] + content[stop:]
        case 3:
            return content[:start] + draw.randbytes(min(stop - start, 20)) + content[start + min(stop - start, 20) :]
        case 4:
            return content[:stop] + content[start:]
        case _:
            return content.decode("latin-1").encode(draw.choice(["utf-16", "utf-8", "utf-8-sig"]))


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_gives_rows_or_is_refused_by_name(tmp_path, seed):
    draw = random.Random(seed)
    (tmp_path / "good").mkdir()
    for file in good_files(tmp_path / "good"):
        place = tmp_path / file.name
        for _ in range(6):
            if content := mutated(draw, file.read_bytes()):
                place.write_bytes(content)
                for found in files_at(place).files:
                    try:
                        for batch in found.read(found.schema().names):
                            assert batch.table.num_rows == len(batch.rows)
                    except ValueError as error:
                        assert file.name in str(error)
        place.unlink(missing_ok=True)
