"""Text from outside is shown without commanding a terminal, breaking a page or giving a secret away."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mixrank.schemas import safe_text
from mixrank.schemas.safe_text import masked, printable, safe_values, shown

CANARY = "c4n4ry-8fJk2"


@given(st.text(st.characters()))
@example("\x1b[31m\x00\x9b\ufffe\u202e")
def test_printable_text_fits_into_xml_and_holds_no_command(text):
    clean = printable(text)
    assert not {c for c in clean if (ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 or c in "\u202e\u2066"}
    root = ElementTree.Element("text")
    root.text = clean
    assert ElementTree.fromstring(ElementTree.tostring(root, "utf-8")).text == (clean or None)
    assert printable(clean) == clean


def test_ordinary_text_of_any_language_is_left_alone():
    text = "naïve Ünïcode 漢字 हिन्दी 👩‍👩‍👧 a\tb\nc"
    assert printable(text) == masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "http://user:{}@host:8501/v1",
        "/work/http:/user:{}@host",
        "ValueError: gs+https://{}@host failed",
        "--s3_secret_access_key={}",
        "['--runner=X', '--s3_secret_access_key={}']",
        "https://bucket/key?X-Amz-Signature={}&x=1",
        '{{"password": "{}", "x": 1}}',
        "{{'api_key': '{} with blanks'}}",
        "kubeflow:\n  token: {}\n  x: 1",
        "Authorization: Bearer {}",
        "AWS_SECRET_ACCESS_KEY={}",
        "MIXRANK_KFP_TOKEN = {}",
        "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_masked(text):
    result = masked(text.format(CANARY))
    assert CANARY not in result and "***" in result
    assert masked(result) == result


@pytest.mark.parametrize(
    "text",
    [
        "model.params.num_tokens=4",
        "the token: it is wrong",
        "--s3_secret_access_key=env:AWS_KEY",
        "--password=file:/run/secrets/password",
        "s3://bucket/a@b.parquet",
        "someone@example.org",
        "tokens: 3",
    ],
)
def test_names_and_numbers_that_are_no_secrets_stay(text):
    assert masked(text) == text


def test_a_secret_that_was_read_is_hidden_wherever_it_stands(monkeypatch):
    monkeypatch.setattr(safe_text, "_READ", set())
    safe_text.never_show(CANARY)
    safe_text.never_show("abc")
    assert masked(f"boto says: bad key {CANARY}, abc") == "boto says: bad key ***, abc"


def test_values_of_a_document_are_cleaned_at_any_depth():
    document = {"beam": ["--x", f"--s3_secret_access_key={CANARY}"], "a\x1b": {"password": CANARY, "dim": 4, "u": None}}
    clean = safe_values(document)
    assert CANARY not in json.dumps(clean)
    assert clean["a\\x1b"] == {"password": "***", "dim": 4, "u": None}


@pytest.mark.parametrize(
    "value", ["a" * 10**7, ["b" * 10**6] * 1000, {str(i): "c" * 1000 for i in range(5000)}, b"d" * 10**6]
)
def test_a_long_value_is_shown_by_its_beginning(value):
    assert len(shown(value)) <= 300


@pytest.mark.parametrize("value", [3, 0.5, "it's", None, [1, "b"], (1,), {"a": 1}, True])
def test_a_short_value_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)
