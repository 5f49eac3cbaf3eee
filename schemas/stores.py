"""Object stores: what lies at `s3://`, `gs://` and `hdfs://`, through fsspec.

Names are taken as they are: nothing in an address is decoded, and brackets, `#` and `%` mean themselves.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from mixrank.schemas.safe_text import shown

# Scheme -> extra of mixrank that brings its client.
EXTRAS = {"s3": "s3", "gs": "gcs", "hdfs": "hdfs"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d+)?")
# Beam's option -> the client's.
_S3_OPTIONS = {
    "--s3_access_key_id": "key",
    "--s3_secret_access_key": "secret",
    "--s3_session_token": "token",
    "--s3_endpoint_url": "endpoint_url",
}
_REGION = "--s3_region_name"
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile of AWS, or in `beam` "
    "--s3_access_key_id=env:NAME and --s3_secret_access_key=env:NAME",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud",
    "hdfs": "HADOOP_USER_NAME, or log in with kinit",
}
_settings: dict[str, str] = {}


@dataclass(frozen=True)
class Stored:
    """A file in a store.

    Args:
        size: in bytes.
        changed: when it was written, in Unix seconds; 0 if the store does not say.
    """

    size: int
    changed: float


def is_url(place: object) -> TypeGuard[str]:
    """Whether a text is an address (`scheme://...`) and not a local path.

    >>> is_url("s3://bucket/log"), is_url("logs/2026"), is_url("package:NAME/FOLDER")
    (True, False, False)
    """
    return isinstance(place, str) and _SCHEME.match(place) is not None


def check_url(url: str, what: str) -> str:
    """The address without a slash at its end.

    Args:
        url: an address.
        what: what the error calls it.

    Raises:
        ValueError: for an unknown scheme, a missing bucket, or a part that is empty, `.` or `..`.
    """
    scheme, _, rest = url.partition("://")
    host, *parts = rest.rstrip("/").split("/")
    if scheme not in EXTRAS:
        raise ValueError(f"{what} must be a local folder or begin with s3://, gs:// or hdfs://, received {shown(url)}")
    if not (_HOST.fullmatch(host) or (scheme == "hdfs" and not host)):
        raise ValueError(
            f"{what} must name a bucket, as {scheme}://BUCKET/FOLDER, received {shown(url)}; "
            "keys and passwords do not belong into it"
        )
    if {"", ".", ".."} & set(parts):
        raise ValueError(f"{what} has an empty part, `.` or `..`, received {shown(url)}")
    return "/".join([f"{scheme}://{host}", *parts])


def configure(options: Iterable[str]) -> None:
    """Takes what concerns S3 from the options of a Beam pipeline, for the whole process.

    Args:
        options: with the values of secrets. --s3_access_key_id, --s3_secret_access_key, --s3_session_token,
            --s3_endpoint_url and --s3_region_name are read; what is missing comes from the environment, as in AWS's
            own tools.
    """
    _settings.clear()
    for option in options:
        name, _, value = option.partition("=")
        if name in _S3_OPTIONS or name == _REGION:
            _settings[name] = value


def settings() -> list[str]:
    """Options that `configure` took, for a process that works for this one."""
    return [f"{name}={value}" for name, value in _settings.items()]


def files(url: str) -> dict[str, Stored]:
    """Name below an address -> the file there, at any depth; the name is empty if the address is that of a file.

    Raises:
        ValueError: if the bucket does not exist, is not allowed or cannot be reached.
    """
    with _about(url) as (client, path):
        try:
            found = client.find(path, detail=True)
        except FileNotFoundError:
            found = {}
        if not found:
            # `find` is silent where there is no bucket.
            _children(client, path)
        return {_below(path, name): _stored(about) for name, about in sorted(found.items()) if about["type"] == "file"}


def names(url: str) -> list[str]:
    """Names of files and folders directly below an address; empty if it has none.

    Raises:
        ValueError: as `files`.
    """
    with _about(url) as (client, path):
        return sorted(_below(path, about["name"]) for about in _children(client, path) if about["name"] != path)


def read(url: str) -> bytes:
    """A whole file.

    Raises:
        ValueError: as `files`, or if it does not exist.
    """
    with _about(url) as (client, path):
        return bytes(client.cat_file(path))


def open_file(url: str) -> BinaryIO:
    """A file, open for reading at any place.

    Raises:
        ValueError: as `read`, whenever it is read.
    """
    with _about(url) as (client, path):
        return io.BufferedReader(_File(url, client.open(path, "rb")), 2**18)


def download(url: str, file: Path) -> None:
    """Copies a file from a store; folders are made.

    Raises:
        ValueError: as `read`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _about(url) as (client, path):
        # fsspec opens a file of HDFS for one pass, and then asks for its size.
        client.get_file(path, str(file), **({"seekable": True} if _can_rename(client) else {}))


def upload(file: Path, url: str) -> None:
    """Copies a local file to a store, where it appears whole or not at all; one that exists is replaced.

    Raises:
        ValueError: as `files`.
    """
    with _about(url) as (client, path):
        if _can_rename(client):
            client.makedirs(path.rpartition("/")[0], exist_ok=True)
        client.put_file(str(file), path)


def create(url: str, text: str) -> bool:
    """Writes a small file unless there is one; returns whether it did.

    Of two processes that do it at once, one is told no; not by HDFS and stores that do not know the condition
    `If-None-Match`.

    Raises:
        ValueError: as `files`.
    """
    with _about(url) as (client, path):
        if _can_rename(client):
            if client.exists(path):
                return False
            client.makedirs(path.rpartition("/")[0], exist_ok=True)
            client.pipe_file(path, text.encode())
            return True
        try:
            client.pipe_file(path, text.encode(), mode="create")
        except FileExistsError:
            return False
        return True


def move(source: str, target: str, names: Iterable[str]) -> None:
    """Moves files from one folder of a store to another in this order; on HDFS, which can rename, all at once.

    Args:
        source: address of a folder that nothing else writes to.
        target: address of a folder in the same bucket that does not exist.
        names: of the files, below `source`.

    Raises:
        ValueError: as `read`.
    """
    with _about(target) as (client, path):
        _, before = _client(source)
        if _can_rename(client):
            client.mv(before, path)
            return
        for name in names:
            client.cp_file(f"{before}/{name}", f"{path}/{name}")
    delete(source)


def delete(url: str) -> None:
    """Removes all files below the address of a folder.

    Raises:
        ValueError: as `files`.
    """
    for name in files(url):
        with _about(f"{url}/{name}") as (client, path):
            client.rm_file(path)
    with _about(url) as (client, path):
        if _can_rename(client) and client.exists(path):
            client.rm(path, recursive=True)


class _File(io.RawIOBase):
    """An open file whose errors name its address."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _about(self._url):
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


def _children(client: Any, path: str) -> list[dict[str, Any]]:
    try:
        return list(client.ls(path, detail=True))
    except FileNotFoundError:
        bucket, _, below = path.partition("/")
        if not below:
            raise
        if bucket:
            # Nothing there, or no bucket? A key for one folder only may not ask.
            with suppress(PermissionError):
                client.ls(bucket, detail=True)
        return []


def _below(path: str, name: str) -> str:
    name = name.removesuffix("/")
    return name.removeprefix(f"{path}/") if name != path else ""


def _stored(about: dict[str, Any]) -> Stored:
    changed = next((about[key] for key in ("LastModified", "mtime", "updated") if about.get(key)), 0.0)
    return Stored(int(about["size"]), _seconds(changed))


def _seconds(moment: Any) -> float:
    """Unix seconds of a number, a text in ISO 8601 or a `datetime`."""
    if isinstance(moment, str):
        from datetime import datetime

        moment = datetime.fromisoformat(moment)
    return float(moment.timestamp() if hasattr(moment, "timestamp") else moment)


def _client(url: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it."""
    import fsspec

    scheme, _, rest = url.partition("://")
    host, _, inside = rest.partition("/")
    if scheme == "hdfs":
        name, _, port = host.partition(":")
        return fsspec.filesystem("hdfs", host=name or "default", port=int(port or 0)), f"/{inside}"
    # Others write there too, so that no listing is kept.
    if scheme == "gs":
        return fsspec.filesystem("gs", use_listings_cache=False), rest
    options: dict[str, Any] = {client: _settings[beam] for beam, client in _S3_OPTIONS.items() if beam in _settings}
    if region := _settings.get(_REGION):
        options["client_kwargs"] = {"region_name": region}
    limits = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "max_attempts": 3}}
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=limits, **options), rest


def _can_rename(client: Any) -> bool:
    """Whether it is HDFS, which has folders, renames them and knows no conditions."""
    from fsspec.implementations.arrow import ArrowFSWrapper

    return isinstance(client, ArrowFSWrapper)


@contextmanager
def _about(url: str) -> Iterator[tuple[Any, str]]:
    """File system and path of an address; what goes wrong names the address and what to do."""
    scheme = url.partition("://")[0]
    # The clients have no error in common.
    try:
        yield _client(url)
    except ImportError as error:
        extra = EXTRAS[scheme]
        raise ValueError(
            f"{url} needs mixrank[{extra}], which is not installed: run `make install STORES={extra}` in a checkout of "
            f"mixrank ({error})"
        ) from None
    except ValueError:
        # Of whoever works with the file system.
        raise
    except Exception as error:
        raise ValueError(f"{url}: {_advice(scheme, error)}") from None


def _advice(scheme: str, error: Exception) -> str:
    kind = type(error).__name__
    said = re.sub(r"\s+", " ", str(error)).strip() or kind
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket, folder or file ({said}): check the address" + _endpoint(scheme)
    if isinstance(error, PermissionError):
        return f"the store refuses the key ({said}): check the key and its rights"
    if "Credentials" in kind or kind == "RefreshError":
        return f"the store asks for a key ({said}): set {_CREDENTIALS[scheme]}"
    if isinstance(error, ConnectionError | TimeoutError) or re.search("Connect|Timeout|SSL|Proxy", kind):
        return f"the store cannot be reached ({said}): check the network{_endpoint(scheme)}"
    return f"{kind}: {said}"


def _endpoint(scheme: str) -> str:
    return ", or --s3_endpoint_url in `beam`" if scheme == "s3" else ""
