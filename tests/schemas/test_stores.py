"""Files in an object store: an S3 server in a process of its own, and HDFS' client over a local folder."""

from __future__ import annotations

import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from mixrank.schemas import stores

ODD = "day=1/ä log [v2] #1 100% a+b?x=1&y='z'.csv"


@pytest.fixture
def hadoop(monkeypatch, tmp_path):
    """HDFS as its client sees it, over a local folder."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import LocalFileSystem

    (tmp_path / "hdfs").mkdir()
    client = ArrowFSWrapper(LocalFileSystem())
    monkeypatch.setattr(stores, "_client", lambda url: (client, str(tmp_path / url.replace("://", "/"))))
    return "hdfs://name"


@pytest.fixture(params=["bucket", "hadoop"])
def store(request):
    return request.getfixturevalue(request.param)


def write(tmp_path, text):
    file = tmp_path / "file"
    file.write_text(text)
    return file


def test_files_are_found_by_their_names_as_they_are(store, tmp_path):
    base = f"{store}/a [b] #%41"
    stores.upload(write(tmp_path, "one"), f"{base}/{ODD}")
    stores.upload(write(tmp_path, "three"), f"{base}/x")
    stores.upload(write(tmp_path, "other"), f"{base} too/x")
    found = stores.files(base)
    assert {name: file.size for name, file in found.items()} == {ODD: 3, "x": 5}
    assert all(file.changed > 1.7e9 for file in found.values())
    assert stores.names(base) == [ODD.split("/")[0], "x"]
    assert stores.read(f"{base}/{ODD}") == b"one"
    stores.download(f"{base}/{ODD}", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_text() == "one"
    with stores.open_file(f"{base}/x") as file:
        assert (file.seek(2), file.read(2), file.tell(), file.seek(-1, 2), file.read()) == (2, b"re", 4, 4, b"e")


def test_an_address_of_a_file_lists_that_file(store, tmp_path):
    stores.upload(write(tmp_path, "one"), f"{store}/log/x.csv")
    assert {name: file.size for name, file in stores.files(f"{store}/log/x.csv").items()} == {"": 3}


def test_where_nothing_is_no_file_is_found(store):
    assert stores.files(f"{store}/nothing") == {} and stores.names(f"{store}/nothing") == []


def test_files_move_in_order_and_are_removed(store, tmp_path):
    for name in ("b", "sub/a"):
        stores.upload(write(tmp_path, name), f"{store}/from [1]/{name}")
    stores.move(f"{store}/from [1]", f"{store}/to", ["b", "sub/a"])
    assert list(stores.files(store)) == ["to/b", "to/sub/a"]
    stores.delete(f"{store}/to")
    assert stores.files(store) == {}


def test_a_file_is_created_once(store):
    assert stores.create(f"{store}/owner", "me")
    assert not stores.create(f"{store}/owner", "somebody else")
    assert stores.read(f"{store}/owner") == b"me"


@pytest.mark.slow
def test_of_many_who_create_a_file_at_once_one_does(bucket):
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: stores.create(f"{bucket}/owner", str(number)), range(8)))
    assert done.count(True) == 1 and stores.read(f"{bucket}/owner") == str(done.index(True)).encode()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda url: stores.files(f"{url}-no/log"), r"-no/log: there is no such bucket, folder or file \(.*\): check"),
        (lambda url: stores.names(f"{url}-no"), r"-no: there is no such bucket"),
        (lambda url: stores.create(f"{url}-no/x", ""), r"-no/x: there is no such bucket"),
        (lambda url: stores.read(f"{url}/x"), r"/x: there is no such bucket, folder or file"),
        (lambda url: stores.open_file(f"{url}/x"), r"/x: there is no such bucket, folder or file"),
    ],
)
def test_what_is_missing_is_named(bucket, act, message):
    with pytest.raises(ValueError, match=message) as caught:
        act(bucket)
    assert "--s3_endpoint_url" in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_without_rights_is_named(bucket, s3_server):
    def guard(actions):
        kind = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", actions, kind)
        urllib.request.urlopen(request).close()

    guard(b"0")
    try:
        with pytest.raises(ValueError, match=f"{bucket}/log: the store refuses the key .*: check the key"):
            stores.files(f"{bucket}/log")
    finally:
        guard(b"inf")


def test_a_store_that_asks_for_a_key_says_where_it_is_looked_for(bucket, s3_server, monkeypatch, tmp_path):
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    stores.configure([f"--s3_endpoint_url={s3_server}", "--s3_region_name=eu-west-1"])
    with pytest.raises(ValueError, match="asks for a key .* AWS_ACCESS_KEY_ID .* --s3_secret_access_key=env:NAME"):
        stores.names(bucket)


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_named(bucket):
    stores.configure([*stores.settings(), "--s3_endpoint_url=http://127.0.0.1:9"])
    with pytest.raises(ValueError, match=rf"{bucket}: the store cannot be reached \(.*127.0.0.1:9.*\): check the net"):
        stores.names(bucket)


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=r"gs://b/x needs mixrank\[gcs\].*make install STORES=gcs"):
        stores.names("gs://b/x")


def test_an_address_is_checked_without_a_look():
    assert stores.check_url("s3://bucket/a b/[c]/", "`data`") == "s3://bucket/a b/[c]"
    assert stores.check_url("hdfs://name:8020/a", "`data`") == "hdfs://name:8020/a"
    assert stores.check_url("hdfs:///a", "`data`") == "hdfs:///a"
    for url, said in {
        "ftp://host/log": "must be a local folder or begin with s3://, gs:// or hdfs://",
        "S3://host/log": "must be a local folder or begin with s3://",
        "s3:///log": "must name a bucket",
        "s3://key:secret@bucket/log": "keys and passwords do not belong into it",
        "s3://bucket//log": "has an empty part, `.` or `..`",
        "s3://bucket/a/../b": "has an empty part, `.` or `..`",
    }.items():
        with pytest.raises(ValueError, match=f"`data` .*{said}"):
            stores.check_url(url, "`data`")
