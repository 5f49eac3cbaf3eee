"""A Parquet or Arrow file cannot run a program in whoever reads it (CVE-2023-47248)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mixrank.schemas.arrow import lines_of, open_parquet, pa, pq, read_frame

REFUSED = "holds a column whose type is stored as a program"
COLUMNS = ["person", "clip", "at", "page", "label_click", "label_buy", "score_click", "score_buy"]


@pytest.fixture
def trap(tmp_path):
    """Writes a Parquet file whose reader makes the folder `sprung`."""
    sprung = tmp_path / "sprung"

    class Program(pa.PyExtensionType):
        def __init__(self):
            super().__init__(pa.int64())

        def __reduce__(self):
            return os.mkdir, (str(sprung),)

    def write(path):
        column = pa.ExtensionArray.from_storage(Program(), pa.array([1, 2]))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({**dict.fromkeys(COLUMNS, pa.array([0, 1])), "trap": column}), path)
        return path

    yield write
    assert not sprung.exists()


def fresh(*arguments):
    """A process that has imported nothing yet, above all not Beam, which brings the same protection."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("text", [b"", b"a", b"a\n", b"\n", b"a\n\nbc\n", b"a\r\x0b\nb c", "ü\n漢\n".encode()])
def test_lines_are_those_between_line_feeds(text):
    assert lines_of(text).to_pylist() == text.removesuffix(b"\n").split(b"\n")[: None if text else 0]


def test_without_protection_the_file_would_run(trap, tmp_path):
    file = trap(tmp_path / "rows.parquet")
    fresh("-c", f"import pyarrow.parquet; pyarrow.parquet.read_table({str(file)!r})")
    (tmp_path / "sprung").rmdir()


def test_a_file_with_a_program_is_refused_by_name(trap, tmp_path):
    file = trap(tmp_path / "rows.parquet")
    for read in (read_frame, open_parquet):
        with pytest.raises(ValueError, match=f"rows.parquet {REFUSED}"):
            read(file)
    code, said = fresh("-c", f"from mixrank.schemas.arrow import read_frame; read_frame({str(file)!r})")
    assert code == 1 and REFUSED in said


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "rows.parquet").write_text("no parquet at all")
    with pytest.raises(ValueError, match="rows.parquet cannot be read as parquet"):
        read_frame(tmp_path / "rows.parquet")


@pytest.mark.parametrize("at", [6, 0.4, 0.95, 0.99])
def test_a_damaged_parquet_file_is_named(tmp_path, at):
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"at": list(range(1000)), "page": ["home"] * 1000}), file)
    damaged = bytearray(file.read_bytes())
    start = at if isinstance(at, int) else int(at * len(damaged))
    damaged[start : start + 8] = b"\xff" * 8
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{file} cannot be read as parquet: ."):
        read_frame(file)


def test_a_missing_file_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "rows.parquet")


@pytest.mark.slow
def test_rollout_status_runs_no_program_of_a_run(trap, tmp_path, record_of, toy_spec):
    from mixrank.pipeline.run_record import Judgement

    run = tmp_path / "run"
    version = run / "serving" / "shop" / "5"
    version.mkdir(parents=True)
    trap(run / "predictions.parquet")
    judgement = Judgement(evaluation=tmp_path, pushed=version)
    record_of(toy_spec, model_run=run, judgement=judgement).write(run)
    code, said = fresh("-m", "mixrank.pipeline.cli", "rollout", "status", version.parent)
    assert code == 0 and "│ 5" in said


@pytest.mark.slow
def test_a_report_runs_no_program_of_a_run(trap, tmp_path, record_of, toy_spec):
    trap(tmp_path / "run" / "predictions.parquet")
    record_of(toy_spec, model_run=tmp_path / "run").write(tmp_path / "run")
    code, said = fresh("-m", "mixrank.pipeline.cli", "report", tmp_path / "run")
    assert code == 1 and f"predictions.parquet {REFUSED}" in " ".join(said.split())


def scored(file, spec):
    from mixrank.serving.batch_scoring.scoring_plan import find_files, output_schema

    return output_schema(spec, find_files(file, None), [])


def drifted(file, spec):
    from mixrank.serving.drift.logged_rows import LoggedRows

    return list(LoggedRows(file, spec))


def described(file, spec):
    from mixrank.schemas.raw import files_at

    return files_at(file).files[0].schema()


def logged(file, spec):
    from mixrank.schemas.raw import files_at

    return list(files_at(file).files[0].read(["person"]))


@pytest.mark.parametrize("read", [scored, drifted, described, logged])
def test_rows_of_others_are_refused_by_the_name_of_their_file(trap, tmp_path, toy_spec, read):
    with pytest.raises(ValueError, match=f"rows.parquet {REFUSED}"):
        read(trap(tmp_path / "rows.parquet"), toy_spec)
