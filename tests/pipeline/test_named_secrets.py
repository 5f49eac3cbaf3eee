"""A secret is named in a config and read where the pipeline runs; no record, page or log shows it."""

from __future__ import annotations

import pytest

from mixrank.pipeline.config.run_config import load_config
from mixrank.pipeline.named_secrets import check_options, resolve
from mixrank.schemas import safe_text

OPTION = "--s3_secret_access_key"
CANARY = "c4n4ry-8fJk2"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(safe_text, "_READ", set())


def test_a_secret_is_read_from_a_variable_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("STORE_KEY", CANARY)
    (tmp_path / "key").write_text(f"{CANARY}-2\n")
    options = ["--runner=FnApiRunner", f"{OPTION}=env:STORE_KEY", f"{OPTION}=file:{tmp_path}/key"]
    assert check_options(options, "`beam`") == tuple(options)
    assert resolve(options) == ["--runner=FnApiRunner", f"{OPTION}={CANARY}", f"{OPTION}={CANARY}-2"]
    assert CANARY not in safe_text.masked(f"the store refused {CANARY} and {CANARY}-2")


def test_a_secret_in_a_config_is_refused_without_repeating_it():
    with pytest.raises(ValueError, match=rf"`beam` must not hold the secret of {OPTION}.*{OPTION}=env:NAME") as refused:
        load_config("movielens", [f"beam=['{OPTION}={CANARY}']"])
    assert CANARY not in str(refused.value)


def test_a_secret_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("STORE_KEY", raising=False)
    with pytest.raises(ValueError, match=f"{OPTION} names the environment variable STORE_KEY, which is not set"):
        resolve([f"{OPTION}=env:STORE_KEY"])
    with pytest.raises(ValueError, match=f"{OPTION} names the file {tmp_path}/key, which cannot be read: .*No such"):
        resolve([f"{OPTION}=file:{tmp_path}/key"])
