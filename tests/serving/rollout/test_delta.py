"""A delta makes a version byte for byte, is small where few rows changed, and does nothing by half."""

from __future__ import annotations

import errno
import json
import random
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank.serving.base import check_sums, versions, write_sums
from mixrank.serving.rollout import Rollout, delta, write_delta

DATA = "variables/variables.data-00000-of-00001"


def save(folder, **files):
    """Something that looks like a SavedModel, with more files in it."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / DATA).write_bytes(b"weights")
    (folder / "assets" / "ids").write_bytes(b"1\n2\n")
    for name, data in files.items():
        (folder / {"data": DATA, "graph": "saved_model.pb"}.get(name, name)).write_bytes(data)
    write_sums(folder)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(rows=4000, width=16, kind=np.float32):
    values = np.random.default_rng(0).normal(size=(rows, width))
    return (values * 30).astype(kind)


@pytest.fixture
def shop(tmp_path):
    """Versions 1 and 2 where they were made, and version 1 under another number elsewhere."""

    def make(before, after, **more):
        save(tmp_path / "here" / "shop" / "1", **before)
        save(tmp_path / "here" / "shop" / "2", **after)
        here, there = tmp_path / "here" / "shop", tmp_path / "there" / "shop"
        shutil.copytree(here / "1", there / "7")
        file = tmp_path / "shop.delta"
        sizes = write_delta(here / "1", here / "2", file, say=str)
        return SimpleNamespace(here=here, there=there, file=file, sizes=sizes, steps=Rollout(there, say=str))

    return make


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_of_a_table_only_the_rows_that_changed_are_in_the_delta(shop, kind):
    before, more = table(kind=kind), table(50, kind=kind)
    after = before.copy()
    after[::100] += 1
    others = b"other weights in front of it"
    # The table has grown, and begins elsewhere.
    made = shop(
        {"data": b"weights" + before.tobytes() + b"tail"}, {"data": others + after.tobytes() + more.tobytes() + b"tail"}
    )
    assert made.steps.apply(made.file) == 2
    assert content(made.there / "2") == content(made.here / "2")
    # 40 rows of 4000 changed, and 50 are new, which have the values of other rows.
    changed = 40 * 16 * np.dtype(kind).itemsize
    assert made.sizes.delta < 2 * changed + 4000
    assert made.sizes.delta == made.file.stat().st_size
    assert made.sizes.version == sum(path.stat().st_size for path in (made.here / "2").rglob("*") if path.is_file())
    assert made.sizes.ratio == made.sizes.delta / made.sizes.version


@pytest.mark.parametrize("moved", [3000, -3000])
def test_what_stands_behind_a_table_that_grew_or_shrank_is_found(tmp_path, monkeypatch, moved):
    for name, value in {"PIECE": 4096, "SLACK": 64}.items():
        monkeypatch.setattr(delta, name, value)
    rest, front = (np.random.default_rng(seed).bytes(size) for seed, size in ((0, 60_000), (1, 3000)))
    grown, base = front + rest, tmp_path / "shop"
    save(base / "1", data=rest if moved > 0 else grown)
    save(base / "2", data=grown if moved > 0 else rest)
    sizes = []
    for growth in (0, 4000):
        monkeypatch.setattr(delta, "GROWTH", growth)
        sizes.append(write_delta(base / "1", base / "2", tmp_path / "delta", say=str).delta)
    # Of each of 16 pieces, three quarters have moved too far.
    assert sizes[0] > 0.6 * 60_000 and sizes[1] < max(0, moved) + 6000


def test_a_large_table_is_found_as_a_whole(tmp_path):
    before = table(200_000)
    after = before.copy()
    after[::100] += 1
    save(tmp_path / "shop" / "1", data=before.tobytes())
    save(tmp_path / "shop" / "2", data=b"moved" + after.tobytes())
    sizes = write_delta(tmp_path / "shop" / "1", tmp_path / "shop" / "2", tmp_path / "delta", say=str)
    # 2000 rows of 64 bytes changed, of 200,000.
    assert sizes.ratio < 0.013


def test_files_that_are_new_gone_empty_or_under_another_name_come_out_right(shop):
    made = shop(
        {"assets/gone": b"gone", "assets/old": b"moved", "assets/full": b"full"},
        {"assets/new": b"n", "assets/other": b"moved", "assets/full": b"", "assets/ids2": b"1\n2\n"},
    )
    made.steps.apply(made.file)
    assert content(made.there / "2") == content(made.here / "2")
    with zipfile.ZipFile(made.file) as archive:
        known = json.loads(archive.read("delta.json"))
    assert known["same"]["assets/other"] == "assets/old" and set(known["patched"]) == {"assets/new", "assets/full"}


@settings(max_examples=25, deadline=None)
@given(
    old=st.binary(max_size=300),
    edits=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40), st.binary(max_size=40))),
)
def test_any_file_comes_out_as_it_was_whatever_the_size_of_a_piece(old, edits):
    new = old
    for place, removed, put in edits:
        new = new[:place] + put + new[place + removed :]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # Many pieces, and less of the base around each than has moved.
        for name, value in {"PIECE": 32, "SLACK": 4, "GROWTH": 16}.items():
            patch.setattr(delta, name, value)
        base = save(Path(folder, "shop", "1"), data=old).parent
        save(base / "2", data=new)
        write_delta(base / "1", base / "2", Path(folder, "delta"), say=str)
        expected = content(base / "2")
        shutil.rmtree(base / "2")
        Rollout(base, say=str).apply(Path(folder, "delta"))
        assert content(base / "2") == expected


def test_a_delta_is_applied_once_and_never_over_another_version(shop):
    made = shop({}, {"data": b"others."})
    made.steps.apply(made.file)
    assert made.steps.apply(made.file) == 2
    shutil.rmtree(made.there / "2")
    save(made.there / "2", data=b"thirds.")
    with pytest.raises(ValueError, match="2 exists, and is not the version that .*shop.delta makes"):
        made.steps.apply(made.file)


def test_a_model_served_by_its_latest_version_is_pinned_before_a_new_one_appears(shop):
    from mixrank.serving import model_config

    made = shop({}, {"data": b"others."})
    config = model_config.new()
    model_config.add(config, "shop", str(made.there))
    shutil.move(made.there / "7", made.there / "1")
    model_config.write(made.there / "models.config", config)
    made.steps.apply(made.file)
    assert made.steps.entry.labels == {"stable": 1, "canary": 1}
    assert [each["command"] for each in made.steps.journal.records() if each["event"] == "done"] == ["adopt", "push"]


def test_another_base_or_a_damaged_one_is_refused(shop, tmp_path):
    made = shop({}, {"data": b"others."})
    other = save(tmp_path / "other" / "shop" / "7", data=b"fourth.").parent
    with pytest.raises(
        ValueError, match="makes version 2 from version 1, which is not here: there are 7. Copy version 1 or 2 here"
    ):
        Rollout(other, say=str).apply(made.file)
    (made.there / "7" / DATA).write_bytes(b"weighty")
    with pytest.raises(ValueError, match=f"{DATA} was changed after the version was written"):
        made.steps.apply(made.file)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        Rollout(tmp_path / "nowhere", say=str).apply(made.file)
    assert not (tmp_path / "nowhere").exists()
    (made.here / "1" / "assets.extra" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="has no assets.extra/SHA256SUMS"):
        write_delta(made.here / "1", made.here / "2", made.file, say=str)


def rewritten(file, change):
    """The delta with another manifest."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    known = json.loads(entries["delta.json"])
    change(known)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (entries | {"delta.json": json.dumps(known)}).items():
            archive.writestr(name, data)


CHANGES = {
    "it names a file outside a version: '../ids'": lambda known: (
        known["same"].update({"../ids": known["same"].pop("assets/ids")}),
        known.update(sums=known["sums"].replace("assets/ids", "../ids")),
    ),
    "it names a file outside a version: '/etc/passwd'": lambda known: known["patched"][DATA].update(base="/etc/passwd"),
    "its files are not those of its sums": lambda known: known["same"].pop("assets/ids"),
    "its files are not those of its sums$": lambda known: known["same"].update({DATA: "assets/ids"}),
    "format: Input should be 'mixrank delta 1'": lambda known: known.update(format="mixrank delta 2"),
    "a piece of it has 9 bytes, not 8": lambda known: known["patched"][DATA]["pieces"][0].update(size=8),
    "it does not make the version: assets/ids was changed": lambda known: known["same"].update(
        {"assets/ids": "saved_model.pb"}
    ),
    "`sums` of .* line 1 is not a SHA-256 sum": lambda known: known.update(sums="x"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_delta_that_says_something_false_is_refused(shop, message):
    made = shop({}, {"data": b"fourteen."})
    rewritten(made.file, CHANGES[message])
    with pytest.raises(ValueError, match=message):
        made.steps.apply(made.file)
    assert set(versions(made.there)) == {7} and not list(made.there.glob(".*.partial"))


def test_a_delta_that_was_cut_off_or_damaged_anywhere_makes_nothing(shop):
    before = table(200)
    made = shop({"data": before.tobytes()}, {"data": (before + (np.arange(200) % 50 == 0)[:, None]).tobytes()})
    whole, draw = made.file.read_bytes(), random.Random(0)
    expected = content(made.here / "2")
    for size in range(0, len(whole), len(whole) // 40):
        made.file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="shop.delta is no delta, or is cut off or damaged: copy it again"):
            made.steps.apply(made.file)
    for _ in range(150):
        place = draw.randrange(len(whole))
        made.file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        try:
            made.steps.apply(made.file)
        except (ValueError, OSError):
            assert set(versions(made.there)) == {7} and not list(made.there.glob(".*.partial"))
        else:
            # What zip does not look at, such as a date.
            assert content(made.there / "2") == expected
            shutil.rmtree(made.there / "2")


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_no_version(shop, monkeypatch, stop):
    made = shop({}, {"data": b"others."})

    def fails(*args):
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(delta, "_expand", fails)
        with pytest.raises(type(stop)):
            made.steps.apply(made.file)
    assert set(versions(made.there)) == {7} and not list(made.there.glob(".*.partial"))
    assert made.steps.journal.last()["event"] == "failed"
    made.steps.apply(made.file)
    check_sums(made.there / "2")


def test_the_commands_say_how_small_a_delta_is_and_what_to_do_next(shop, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from mixrank.pipeline import cli

    made = shop({}, {"data": b"others."})
    monkeypatch.chdir(tmp_path)

    def mixrank(*arguments):
        return CliRunner().invoke(cli.app, ["rollout", *map(str, arguments)])

    result = mixrank("delta", made.here, "--from", 1)
    size = (tmp_path / "shop-1-2.delta").stat().st_size
    assert result.exit_code == 0, result.output
    assert f"wrote shop-1-2.delta: {size:,} bytes, " in result.output and f"{DATA}: " in result.output
    result = mixrank("apply", made.there, "shop-1-2.delta")
    assert result.exit_code == 0 and f"mixrank rollout canary {made.there} --url" in result.output
    for arguments, message in (
        (("delta", made.here, "--from", 3), "there is no version 3; there are 1, 2"),
        (("delta", made.here, "--from", 2), "--from is 2, the version to make: name an older one"),
        (("delta", tmp_path / "none", "--from", 2), "none holds no version"),
        (("apply", made.there, "missing"), "`missing`: no such file or directory"),
        (("apply", made.there, made.here / "1" / "saved_model.pb"), "is no delta, or is cut off or damaged"),
    ):
        result = mixrank(*arguments)
        assert result.exit_code == 1 and message in result.output.replace("\n", " "), result.output
        assert "Traceback" not in result.output
