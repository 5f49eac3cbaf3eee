"""Deployment folder: everything that the TensorFlow Serving image needs to serve some pushed models.

models.config      models, versions and labels
batching.config    how requests are put together
monitoring.config  Prometheus metrics on the REST port
flags.txt          flags of the server, one per line
docker-run.sh      a `docker run` command with those flags
compose.yaml       the same as a compose service
"""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.safe_text import shown
from mixrank.serving import model_config
from mixrank.serving.base import check_saved_model, is_version, versions

# The release line of TensorFlow 2.16.
IMAGE = "tensorflow/serving:2.16.1"
GRPC_PORT, REST_PORT = 8500, 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
MODELS, CONFIG = "/models", "/config"
POLL_SECONDS = 5
# Each gRPC request in progress needs one. With the server's own number, 4 per core, two cores turn away some of 8
# clients at once.
GRPC_THREADS = 64
LABELS = ("stable", "canary")
RANKING_SIGNATURE = b"rank_candidates"


@dataclass(frozen=True)
class Served:
    """One model of a deployment.

    Args:
        name: the name that requests use.
        base: its folder of versions.
        version: the only version to serve, or None for the latest.
    """

    name: str
    base: Path
    version: int | None = None


@dataclass(frozen=True)
class Options:
    """Settings of a server.

    Args:
        grpc_port: int, 1 to 65535. On the host.
        rest_port: int, 1 to 65535, another than `grpc_port`. On the host.
        batch_size: int >= 0. Maximum rows per batch; 0 turns batching off. A row that a model refuses fails all
            requests of its batch.
        batch_timeout_ms: float >= 0. Maximum wait of a request for a batch to fill, in milliseconds.
        image: str. Image with tag or digest.
        publish: str. Address of this machine on which the ports are published; 0.0.0.0 is all of them.
    """

    grpc_port: int = GRPC_PORT
    rest_port: int = REST_PORT
    batch_size: int = 0
    batch_timeout_ms: float = 2.0
    image: str = IMAGE
    publish: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for name in ("grpc_port", "rest_port"):
            if not 1 <= getattr(self, name) <= 65535:
                raise ValueError(f"`{name}` must be 1 to 65535, received {getattr(self, name)}")
        if self.grpc_port == self.rest_port:
            raise ValueError(f"`grpc_port` and `rest_port` must differ, both are {self.grpc_port}")
        try:
            ipaddress.ip_address(self.publish)
        except ValueError:
            raise ValueError(
                f"`publish` must be an IP address of this machine, such as 127.0.0.1, received {shown(self.publish)}"
            ) from None
        if self.batch_size < 0:
            raise ValueError(f"`batch_size` must be at least 0, received {self.batch_size}")
        if self.batch_timeout_ms < 0:
            raise ValueError(f"`batch_timeout_ms` must be at least 0, received {self.batch_timeout_ms}")


def served(folder: Path, name: str | None = None) -> Served:
    """The model of a folder given by a user: a folder of versions, or one version in it.

    Raises:
        ValueError: if it does not exist, holds no version, or the version is not a complete SavedModel.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist or is not a folder")
    if is_version(folder):
        check_saved_model(folder)
        return Served(name or folder.parent.name, folder.parent, int(folder.name))
    if (folder / "saved_model.pb").exists():
        raise ValueError(
            f"{folder} is a SavedModel but its name is not a version number; TensorFlow Serving wants "
            f"MODEL/NUMBER/saved_model.pb (`mixrank rollout push BASE {folder}` makes that)"
        )
    found = versions(folder)
    if not found:
        raise ValueError(
            f"{folder} holds no version folder (a number, such as 1700000000); a pushed model lies in "
            f"runs/NAME/serving/MODEL"
        )
    check_saved_model(found[max(found)])
    return Served(name or folder.name, folder)


def loaded_folders(model: Served) -> list[Path]:
    """Folders of the versions that a server of this deployment loads first."""
    found = versions(model.base)
    if model.version is not None:
        return [found[model.version]]
    rolled = model_config.Entry(model.base / "models.config", model.name, str(model.base)).loaded & set(found)
    return [found[version] for version in sorted(rolled) or [max(found)]]


def ranks_candidates(models: Sequence[Served]) -> list[str]:
    """Names of the models whose newest or only version has the signature `rank_candidates`.

    The graph file contains a signature's name verbatim, so the file is searched, not parsed.
    """
    found = []
    for model in models:
        version = max(versions(model.base)) if model.version is None else model.version
        graphs = versions(model.base)[version].glob("saved_model.pb*")
        if any(RANKING_SIGNATURE in graph.read_bytes() for graph in graphs):
            found.append(model.name)
    return found


def write_deployment(output: Path, models: Sequence[Served], options: Options) -> None:
    """Writes the folder under a temporary name, reads every file back, and renames it.

    Args:
        output: must not exist: a running server may have the folder open, and it may hold the labels of a roll-out.
        models: at least one, of different names.
        options: ports, batching, image.

    Raises:
        ValueError: if `output` exists, two models have the same name, or a model cannot be batched.
    """
    output = Path(os.path.abspath(output))
    if output.exists():
        raise ValueError(f"{output} exists; a running server may be using it. Remove it or choose another --output")
    if not models:
        raise ValueError("`models` must name at least one model")
    if options.batch_size and (ranking := ranks_candidates(models)):
        raise ValueError(
            f"`batch_size` must be 0, received {options.batch_size}: the signature `rank_candidates` of "
            f"{', '.join(ranking)} has inputs without an axis of rows, and a server that batches does not start with it"
        )
    files = {
        "models.config": _models_config(models),
        "monitoring.config": f'prometheus_config {{\n  enable: true\n  path: "{METRICS_PATH}"\n}}\n',
        **({"batching.config": _batching_config(options)} if options.batch_size else {}),
    }
    flags = _flags(options)
    files["flags.txt"] = "".join(f"{flag}\n" for flag in flags)
    files["docker-run.sh"] = _docker_run(output, models, options, flags)
    files["compose.yaml"] = _compose(output, models, options, flags)

    def write(temporary: Path) -> None:
        for name, text in files.items():
            (temporary / name).write_text(text)
        (temporary / "docker-run.sh").chmod(0o755)
        validate(temporary)

    write_folder_atomically(output, write)


def validate(folder: Path) -> None:
    """Reads the files of a deployment back: models.config as its message, flags against each other, YAML as YAML.

    Raises:
        ValueError: naming the file and what is wrong.
    """
    import yaml

    model_config.parse((folder / "models.config").read_text(), "models.config")
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in (folder / "flags.txt").read_text().split())
    for name, value in flags.items():
        if name.endswith("_file") and not (folder / Path(value).name).is_file():
            raise ValueError(f"flags.txt: --{name} names {value}, which is not in the folder")
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["tensorflow-serving"]
    run = shlex.split((folder / "docker-run.sh").read_text().replace("\\\n", ""), comments=True)
    for name, command in (("compose.yaml", service["command"]), ("docker-run.sh", run)):
        if missing := [flag for flag in (folder / "flags.txt").read_text().split() if flag not in command]:
            raise ValueError(f"{name} lacks {missing}")


def _models_config(models: Sequence[Served]) -> str:
    config = model_config.new()
    for model in models:
        entry = model_config.add(config, model.name, f"{MODELS}/{model.name}")
        if model.version is not None:
            model_config.pin(entry, {model.version}, dict.fromkeys(LABELS, model.version))
        elif (rolled := model_config.find(model_config.read(model.base / "models.config"), model.name)) is not None:
            entry.model_version_policy.CopyFrom(rolled.model_version_policy)
            entry.version_labels.update(rolled.version_labels)
    return model_config.render(config)


def _batching_config(options: Options) -> str:
    sizes, size = [], 1
    while size < options.batch_size:
        sizes.append(size)
        size *= 2
    sizes.append(options.batch_size)
    return (
        f"max_batch_size {{ value: {options.batch_size} }}\n"
        f"batch_timeout_micros {{ value: {round(1000 * options.batch_timeout_ms)} }}\n"
        "max_enqueued_batches { value: 100 }\n" + "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)
    )


def _flags(options: Options) -> list[str]:
    flags = [
        f"--model_config_file={CONFIG}/models.config",
        f"--model_config_file_poll_wait_seconds={POLL_SECONDS}",
        # Otherwise a server could not start with labels, because nothing is loaded yet.
        "--allow_version_labels_for_unavailable_models=true",
        # Otherwise a broken version stays in LOADING for minutes, even if it is removed.
        "--max_num_load_retries=0",
        f"--grpc_max_threads={GRPC_THREADS}",
        f"--monitoring_config_file={CONFIG}/monitoring.config",
    ]
    if options.batch_size:
        flags += ["--enable_batching=true", f"--batching_parameters_file={CONFIG}/batching.config"]
    return flags


def _mounts(output: Path, models: Sequence[Served]) -> dict[str, str]:
    """Folder on the host -> folder in the container.

    Folders, not files: a roll-out renames a new models.config into place, which a mount of the file would not show.
    """
    mounts = {str(output): CONFIG, **{str(model.base): f"{MODELS}/{model.name}" for model in models}}
    if odd := [path for path in mounts if set(path) & set(',$"\n')]:
        raise ValueError(f"docker cannot mount a folder with a comma, quote or dollar in its name: {odd[0]}")
    return mounts


def _ports(options: Options) -> list[str]:
    host = f"[{options.publish}]" if ":" in options.publish else options.publish
    return [f"{host}:{options.grpc_port}:{GRPC_PORT}", f"{host}:{options.rest_port}:{REST_PORT}"]


def _user() -> str:
    """Who may read the mounted folders: whoever writes the files, but never root."""
    return f"{os.getuid() or 1000}:{os.getgid() or 1000}"


def _docker_run(output: Path, models: Sequence[Served], options: Options, flags: Sequence[str]) -> str:
    parts = [
        "docker run --detach --name tensorflow-serving --restart unless-stopped",
        *(f"--publish {published}" for published in _ports(options)),
        f"--user {_user()} --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges",
        *(
            f"--mount {shlex.quote(f'type=bind,source={source},target={target},readonly')}"
            for source, target in _mounts(output, models).items()
        ),
        shlex.quote(options.image),
        *flags,
    ]
    return "#!/bin/sh\n# Written by mixrank; gRPC and REST of TensorFlow Serving.\n" + " \\\n  ".join(parts) + "\n"


def _compose(output: Path, models: Sequence[Served], options: Options, flags: Sequence[str]) -> str:
    import yaml

    service = {
        "image": options.image,
        "restart": "unless-stopped",
        "ports": _ports(options),
        "user": _user(),
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": [
            {"type": "bind", "source": source, "target": target, "read_only": True}
            for source, target in _mounts(output, models).items()
        ],
        "command": list(flags),
    }
    text: str = yaml.safe_dump({"services": {"tensorflow-serving": service}}, sort_keys=False)
    return "# Written by mixrank: docker compose up --detach\n" + text
