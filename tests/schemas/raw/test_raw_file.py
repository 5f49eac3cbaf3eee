"""Rows of a file: right at any block size, or refused with file, row and column."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import random

import pytest

from mixrank.schemas import Table
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.raw import find_files, text


def raw(path, **options):
    (file,) = find_files(Table(files=(path.name,), **options), str(path.parent)).files
    return file


def rows(path, *names, **options):
    """(number, values) of every row, and the bad rows."""
    file = raw(path, **options)
    names = names or file.schema().names
    batches = list(file.read(names))
    good = [
        (int(number), tuple(row.values()))
        for batch in batches
        for number, row in zip(batch.rows, batch.table.to_pylist(), strict=True)
    ]
    return good, [letter for batch in batches for letter in batch.bad]


@pytest.mark.parametrize("block", [60, 200, 1000, 8 * 2**20])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_newlines_in_quotes_tear_no_row_at_any_block_size(tmp_path, monkeypatch, block, place, end):
    draw = random.Random(7)
    table = [[str(number), f"u{number % 3}"] for number in range(1, 121)]
    for row in table:
        row.insert(place, "\n".join(["one", 'two, "said"', "x" * draw.randint(0, 40)]))
    stream = io.StringIO()
    csv.writer(stream, lineterminator=end).writerows([["a", "b", "c"], *table])
    (tmp_path / "t.csv").write_bytes(stream.getvalue().encode())
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    good, bad = rows(tmp_path / "t.csv")
    assert good == [(number, tuple(v.encode() for v in row)) for number, row in enumerate(table, 1)] and not bad


@pytest.mark.parametrize("block", [100, 1000, 8 * 2**20])
def test_ragged_lines_keep_the_numbers_of_the_others_right(tmp_path, monkeypatch, block):
    lines = [f"{number},y" if number % 3 else f"{number},x,z" for number in range(1, 3001)]
    (tmp_path / "t.csv").write_text("\n".join(["n,m", *lines]))
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    good, bad = rows(tmp_path / "t.csv", "n")
    assert good == [(number, (str(number).encode(),)) for number in range(1, 3001) if number % 3]
    expected = "has 3 columns instead of 2"
    assert bad == [(number, f"{number},x,z", expected) for number in range(3, 3001, 3)]


@pytest.mark.parametrize("block", [1, 8 * 2**20])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_at_the_beginning_of_a_value_stays(tmp_path, monkeypatch, block, mark):
    (tmp_path / "t.csv").write_text(f"{mark}a,b\n1,2\n\ufeff3,4\n")
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    assert rows(tmp_path / "t.csv", "a") == ([(1, (b"1",)), (2, ("\ufeff3".encode(),))], [])
    (tmp_path / "t.csv").write_text("\ufeff\ufeffa,b\n1,2\n")
    assert rows(tmp_path / "t.csv", "\ufeffa") == ([(1, (b"1",))], [])


@pytest.mark.parametrize("longest", [1024, 512 * 2**20])
def test_a_quote_that_stays_open_names_its_row(tmp_path, monkeypatch, longest):
    (tmp_path / "t.csv").write_text('a,b\n1,2\n3,4\n5,"6\n' + "7,8\n" * 1000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 16)
    monkeypatch.setattr(text, "LONGEST_ROW_BYTES", longest)
    with pytest.raises(ValueError, match=r't.csv, row 3 does not end within [0-9,]+ bytes; is a `"` left open in it'):
        rows(tmp_path / "t.csv")
    assert rows(tmp_path / "t.csv", quotes=False)[0][2] == (3, (b"5", b'"6'))


@pytest.mark.parametrize("block", [30, 100, 8 * 2**20])
def test_a_quote_inside_a_plain_value_is_a_character_of_it(tmp_path, monkeypatch, block):
    lines = ['5" screen,x', '"7"" phone\n",y', 'a""b,"c"d', ',""', '"""q""",z'] * 40
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *lines]))
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    good, bad = rows(tmp_path / "t.csv")
    assert [values for _, values in good] == [
        (b'5" screen', b"x"), (b'7" phone\n', b"y"), (b'a""b', b"cd"), (None, None), (b'"q"', b"z")
    ] * 40 and not bad  # fmt: skip


def test_reading_may_stop_anywhere(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 5000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    for _ in range(50):
        next(raw(tmp_path / "t.csv").read(["a"]))


def test_a_row_that_is_longer_than_a_block_is_read(tmp_path, monkeypatch):
    lines = ["a,b", "1,2", f'3,"{"x" * 5000}"', "4,5"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    monkeypatch.setattr(text, "BLOCK_BYTES", 16)
    assert rows(tmp_path / "t.csv", "a")[0] == [(1, (b"1",)), (2, (b"3",)), (3, (b"4",))]


def test_backslashes_escape_quotes_where_they_are_declared(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text('a,b\n"say \\"hi\\",\nnow",2\n"back\\\\",""\n"x",3\n')
    for block in (8, 8 * 2**20):
        monkeypatch.setattr(text, "BLOCK_BYTES", block)
        assert rows(tmp_path / "t.csv", escape="backslash")[0] == [
            (1, (b'say "hi",\nnow', b"2")), (2, (b"back\\", None)), (3, (b"x", b"3"))
        ]  # fmt: skip


def test_a_file_without_a_header_takes_the_declared_columns(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n3\n4,5\n")
    good, bad = rows(tmp_path / "t.csv", "y", "x", columns=("x", "y"))
    assert good == [(1, (b"2", b"1")), (3, (b"5", b"4"))]
    assert bad == [(2, "3", "has 1 columns instead of 2")]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert rows(tmp_path / "t.csv", "a")[0] == [(1, (b"1",))]
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert rows(tmp_path / "t.jsonl", "a")[0] == [(1, (1,))]


def test_quotes_mean_nothing_in_tab_separated_text_unless_declared(tmp_path):
    (tmp_path / "t.tsv").write_text('a\tb\n"Great" Cats\t1\n"two\nlines"\t2\n')
    assert rows(tmp_path / "t.tsv", "a", quotes=True)[0] == [(1, (b"Great Cats",)), (2, (b"two\nlines",))]
    good, bad = rows(tmp_path / "t.tsv", "a")
    assert good == [(1, (b'"Great" Cats',)), (3, (b'lines"',))] and bad[0][0] == 2


def test_values_that_are_not_utf8_reach_the_parser_and_headers_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\nMüller,1\n".encode("latin-1"))
    assert rows(tmp_path / "t.csv", "a")[0] == [(1, (b"M\xfcller",))]
    (tmp_path / "t.csv").write_bytes("größe,b\n1,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t.csv: its header is not UTF-8 text; store it as UTF-8, such as by `iconv"):
        raw(tmp_path / "t.csv").schema()


def test_a_file_with_only_a_header_has_no_rows(tmp_path):
    for content in ("a,b", "a,b\n"):
        (tmp_path / "t.csv").write_text(content)
        assert raw(tmp_path / "t.csv").schema().names == ["a", "b"]
        assert rows(tmp_path / "t.csv", "a") == ([], [])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_a_column_that_is_named_twice_is_refused_with_its_file(tmp_path, name):
    if name == "t.parquet":
        one = pa.array([1])
        pq.write_table(pa.Table.from_arrays([one, one, one], ["a", "b", "a"]), tmp_path / name)
    else:
        tab = "\t" if name == "t.tsv" else ","
        (tmp_path / name).write_text(tab.join("aba") + "\n" + tab.join("123") + "\n")
    for read in (lambda: raw(tmp_path / name).schema(), lambda: rows(tmp_path / name, "b")):
        with pytest.raises(ValueError, match=f"{name} names column `a` twice; rename one of them"):
            read()


def test_columns_without_a_name_are_left_out_if_there_are_several(tmp_path):
    (tmp_path / "t.csv").write_text(",a,\n1,2,3\n")
    assert raw(tmp_path / "t.csv").schema().names == ["a"] and rows(tmp_path / "t.csv") == ([(1, (b"2",))], [])
    (tmp_path / "t.csv").write_text(",a\n1,2\n")
    assert rows(tmp_path / "t.csv") == ([(1, (b"1", b"2"))], [])


def test_lines_of_json_that_do_not_fit_are_bad_and_the_others_are_read(tmp_path):
    lines = ['{"a": 1, "b": "x"}', "", '{"a": 1', '{"a": 2, "a": 3}', "[1]", "[" * 100_000, '{"a": "\\ud800"}',
             '{"a": ' + "9" * 5000 + "}", '{"b": "y"}']  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    good, bad = rows(tmp_path / "t.jsonl", "a", "b")
    assert good == [(1, (1, "x")), (9, (None, "y"))]
    assert [row for row, _, _ in bad] == [3, 4, 5, 6, 7, 8]
    for reason, part in zip(
        [reason for _, _, reason in bad],
        ["is not JSON: Expecting", "names `a` twice", "must be an object", "is nested too deeply",
         "half of a surrogate pair", "holds a whole number of more than"],
        strict=True,
    ):  # fmt: skip
        assert part in reason
    assert all(len(shown) <= 200 for _, shown, _ in bad)


def test_json_values_of_several_types_become_text_of_their_own_row(tmp_path):
    lines = ['{"a": 1}', '{"a": "2"}', '{"a": true}', '{"a": 99999999999999999999}', '{"a": {"b": 1}}', "{}"]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert [values[0] for _, values in rows(tmp_path / "t.jsonl", "a")[0]] == [
        "1", "2", "true", "99999999999999999999", '{"b": 1}', None
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text('{"a": [1, 2]}\n{"a": 3}\n{"a": null}\n{"a": []}\n')
    assert [values[0] for _, values in rows(tmp_path / "t.jsonl", "a")[0]] == [[1, 2], [3], None, []]


def test_a_json_list_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "t.json").write_text('[{"a": 1}]')
    with pytest.raises(ValueError, match=r"t.json holds a JSON list; write one object a line, as `jq -c"):
        raw(tmp_path / "t.json").schema()


def compress(codec, data):
    if codec in ("zst", "lz4"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, {"zst": "zstd", "lz4": "lz4"}[codec]) as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[codec](data)


CODECS = ["gz", "bz2", "xz", "zst", "lz4"]
LINES = [f"{number},{random.Random(number).random()}" for number in range(20_000)]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read_even_in_several_parts(tmp_path, codec):
    parts = ["a,b\n" + "\n".join(LINES[:9_999]) + "\n", "\n".join(LINES[9_999:])]
    (tmp_path / f"t.csv.{codec}").write_bytes(b"".join(compress(codec, part.encode()) for part in parts))
    good, bad = rows(tmp_path / f"t.csv.{codec}", "a")
    assert [int(values[0]) for _, values in good] == list(range(20_000)) and not bad
    (tmp_path / f"t.jsonl.{codec}").write_bytes(compress(codec, b'{"a": 1}\n'))
    assert rows(tmp_path / f"t.jsonl.{codec}", "a")[0] == [(1, (1,))]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("fault", ["cut off", "damaged"])
def test_a_file_that_is_cut_off_or_damaged_is_named(tmp_path, codec, fault):
    content = bytearray(compress(codec, ("a,b\n" + "\n".join(LINES)).encode()))
    if fault == "cut off":
        content = content[: len(content) * 2 // 3]
    else:
        # Not in the middle: zst and lz4 as Arrow writes them have no check sum.
        content[5:69] = bytes(byte ^ 0xFF for byte in content[5:69])
    (tmp_path / f"t.csv.{codec}").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"t.csv.{codec} is (cut off|damaged) \({codec}: .*\); write or copy it again"
    ):
        rows(tmp_path / f"t.csv.{codec}")


def test_the_first_rows_are_read_without_the_rest(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 100)
    assert raw(tmp_path / "t.csv").head(3).to_pydict() == {"a": [b"1"] * 3, "b": [b"2"] * 3}
    assert raw(tmp_path / "t.csv").head(200, ["b"]).num_rows == 100
    (tmp_path / "t.csv").write_text("a,b\n")
    assert raw(tmp_path / "t.csv").head(3).to_pydict() == {"a": [], "b": []}
    pq.write_table(pa.table({"a": range(10)}), tmp_path / "t.parquet", row_group_size=4)
    assert raw(tmp_path / "t.parquet").head(6).to_pydict() == {"a": [0, 1, 2, 3, 4, 5]}


def test_pieces_are_row_groups_that_know_their_row_numbers(tmp_path):
    pq.write_table(pa.table({"a": range(7)}), tmp_path / "t.parquet", row_group_size=3)
    file = raw(tmp_path / "t.parquet")
    assert [(piece.groups, piece.before, piece.rows) for piece in file.pieces()] == [
        ((0, 1), 0, 3), ((1, 2), 3, 3), ((2, 3), 6, 1)
    ]  # fmt: skip
    assert [piece.groups for piece in file.pieces(4)] == [(0, 2), (2, 3)]
    numbers = [batch.rows.tolist() for piece in file.pieces() for batch in file.read(["a"], piece, size=2)]
    assert numbers == [[1, 2], [3], [4, 5], [6], [7]]
