"""Text that nobody meant to write: the same rows at any block size."""

from __future__ import annotations

import csv
import io

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixrank.schemas.raw import find_files, text
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
