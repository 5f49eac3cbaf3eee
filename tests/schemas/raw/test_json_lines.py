"""JSON lines of people and programs: one kind of error, which names the line."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from mixrank.schemas.raw import parse_json, read_json_lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not JSON: Expecting property name enclosed in double quotes at character 2"),
        (b"\xff", "is not UTF-8 text"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "names `b` twice"),
        (b'{"a": "\\udfff"}', "holds half of a surrogate pair"),
        (b"9" * 5000, "holds a whole number of more than 4300 digits"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_its_reason(line, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_json(line)
    with pytest.raises(ValueError, match=f"^rows, line 3 {message}"):
        list(read_json_lines(io.BytesIO(b"{}\n\n" + line + b"\n"), "rows"))


def test_whole_characters_and_long_numbers_are_read_as_they_are():
    assert parse_json(b'{"a": "\\ud83d\\ude00", "b": 12345678901234567890123}') == {
        "a": "\U0001f600", "b": 12345678901234567890123
    }  # fmt: skip


def test_a_client_reads_json_without_arrow_and_tensorflow():
    code = "from mixrank.schemas.raw import parse_json, open_raw, codec_of; parse_json(b'1'); import sys; "
    code += "print([name for name in ('pyarrow', 'tensorflow', 'apache_beam', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_local_files_are_found_and_read_without_beam_and_tensorflow(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    code = (
        f"from mixrank.schemas.raw import files_at; print(files_at({str(tmp_path)!r}).files[0].head(1).to_pydict()); "
    )
    code += "import sys; print([name for name in ('tensorflow', 'apache_beam') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'x': [b'1']}", "[]"]
