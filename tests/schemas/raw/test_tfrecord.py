"""TFRecord files without TensorFlow: its own bytes, and what is cut off or damaged."""

from __future__ import annotations

import bz2
import gzip

import pytest

from mixrank.schemas.raw import files_at
from mixrank.schemas.wire import entry, example


def framed(*records):
    from mixrank.schemas.raw.tfrecord import _HEAD, _SUM, _masked

    lengths = [len(record).to_bytes(8, "little") for record in records]
    return b"".join(
        _HEAD.pack(len(record), _masked(length)) + record + _SUM.pack(_masked(record))
        for record, length in zip(records, lengths, strict=True)
    )


def records(path, size=2):
    (file,) = files_at(path).files
    return list(file.records(size))


def test_records_come_in_blocks_from_any_codec(tmp_path):
    content = framed(b"one", b"", b"three")
    for name, compress in (
        ("a.tfrecord", bytes),
        ("a-00000-of-00001", gzip.compress),
        ("a.tfrecord.bz2", bz2.compress),
    ):
        (tmp_path / name).write_bytes(compress(content))
        assert records(tmp_path / name) == [[b"one", b""], [b"three"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "cannot be read after row 2: it is cut off"),
        (lambda content: content[:-20], "cannot be read after row 2: it is cut off"),
        (lambda content: content[:-5] + b"E" + content[-4:], "cannot be read after row 2: it is damaged"),
        (lambda content: content + b"some more bytes", "cannot be read after row 3: it is damaged"),
        (lambda content: b"x" * 100, "cannot be read after row 0: it is damaged, or no TFRecord file"),
    ],
)
def test_a_file_that_is_cut_off_or_damaged_names_the_last_good_record(tmp_path, change, message):
    (tmp_path / "a.tfrecord").write_bytes(change(framed(b"one", b"", b"three")))
    with pytest.raises(ValueError, match=f"a.tfrecord {message}"):
        records(tmp_path / "a.tfrecord")


def test_records_that_are_no_examples_keep_the_numbers_of_the_others_right(tmp_path):
    good = [example([entry("x", "int", [number]), entry("y", "str", ["a", "b"])]) for number in (1, 3)]
    (tmp_path / "a.tfrecord").write_bytes(framed(good[0], b"\x0a\xff", good[1]))
    (file,) = files_at(tmp_path / "a.tfrecord").files
    assert file.schema().names == ["x", "y"]
    (batch,) = file.read(["y", "x", "absent"])
    assert batch.rows.tolist() == [1, 3]
    assert batch.table.to_pydict() == {"y": [[b"a", b"b"]] * 2, "x": [[1], [3]], "absent": [None, None]}
    assert batch.bad == [(2, "0aff", "is not a tf.Example")]
