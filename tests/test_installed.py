"""The wheel installed by itself: what a service needs that asks a server, beside packages of other people."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mixrank

pytestmark = pytest.mark.slow

ROOT = Path(mixrank.__file__).parents[1]
ROOMS = ("mixrank", "schemas", "layers", "serving", "components", "pipeline")
# Packages that the command imports at the price of seconds, and that the base install must not have.
HEAVY = ("tensorflow", "keras", "tfx", "apache_beam", "pandas", "pyarrow")
ROWS = [{"user_id": 1, "item_id": 7, "age_band": "25_34"}, {"user_id": 2, "item_id": 13, "age_band": "25_34"}]
RAISES = 'raise ImportError("a package of somebody else was imported")\n'


def build(source: Path, into: Path) -> Path:
    """A wheel, by the backend of this environment: nothing is downloaded."""
    program = f"from setuptools import build_meta; print(build_meta.build_wheel({str(into)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1]


def write_rivals(folder: Path) -> Path:
    """Packages with the bare names of two of our folders, as every TFX template makes them."""
    for name in ("pipeline", "components"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(RAISES)
    return folder


def required() -> set[str]:
    """Packages of the base install: the dependencies without extras, and theirs."""
    found: set[str] = set()
    todo = ["mixrank"]
    while todo:
        for line in metadata.requires(todo.pop()) or ():
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found.add(name)
                todo.append(name)
    return found


def copy_packages(names: set[str], site: Path) -> int:
    """Copies installed packages of this environment into another; returns their bytes."""
    size = 0
    for name in names:
        for file in metadata.distribution(name).files or ():
            # Commands of a package lie outside of the folder of packages.
            if file.parts[0] != ".." and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)
                size += target.stat().st_size
    return size


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A fresh environment with the wheel, its base dependencies and a rival; `run` starts programs in it.

    They run in a folder that has a `pipeline/` and a `components/` of its own.
    """
    root = tmp_path_factory.mktemp("installed")
    source = root / "source"
    source.mkdir()
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        copy: Callable[..., object] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **({"symlinks": True} if (ROOT / name).is_dir() else {}))
    wheel = build(source, root)
    rival = write_rivals(root / "rival")
    (rival / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "rival"\nversion = "1"\n[tool.setuptools]\npackages = ["pipeline", "components"]\n'
    )
    venv.create(root / "venv", with_pip=True, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root / "venv")}))
    size = copy_packages(required(), site) + wheel.stat().st_size
    work = write_rivals(root / "work")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        program = [str(root / "venv" / "bin" / command[0]), *command[1:]]
        return subprocess.run(program, cwd=work, env=environment, capture_output=True, text=True)

    installed = run("pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel), str(build(rival, root)))
    assert installed.returncode == 0, installed.stderr
    print(f"base install: {size / 2**20:.0f} MiB, of it the wheel {wheel.stat().st_size / 2**20:.1f} MiB")
    return SimpleNamespace(run=run, size=size, site=site, work=work)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The development server with a model of MovieLens' columns: like is 0.5, click the last digit of the item / 10."""
    import tensorflow as tf

    from mixrank.schemas.datasets import load
    from mixrank.schemas.encode import columns
    from mixrank.serving.base import write_sums
    from mixrank.serving.dev_server import running

    spec = load("movielens").spec
    types = {"int": tf.int64, "float": tf.float32, "str": tf.string}
    inputs = {
        column.name: tf.TensorSpec([None] if column.length is None else [None, column.length], types[column.kind])
        for column in columns(spec)
        if column.serving
    }

    @tf.function
    def score_rows(**values):
        item = tf.cast(values["item_id"] % 10, tf.float32)
        return {"click": item / 10, "like": tf.fill(tf.shape(item), 0.5)}

    module = tf.Module()
    module.score_rows = score_rows
    base = tmp_path_factory.mktemp("served") / "films"
    tf.saved_model.save(module, str(base / "1"), signatures={"score_rows": score_rows.get_concrete_function(**inputs)})
    (base / "1" / "assets.extra").mkdir()
    (base / "1" / "assets.extra" / "mixrank.json").write_text(json.dumps({"spec": spec.model_dump(mode="json")}))
    write_sums(base / "1")
    with running({"films": base}) as started:
        yield SimpleNamespace(base=base, urls=(started.rest_url, f"grpc://{started.grpc_target}"))


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_the_wheel_holds_every_file_of_the_rooms(light):
    kept = {path.relative_to(light.site / "mixrank") for path in (light.site / "mixrank").rglob("*") if path.is_file()}
    missing = [
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.relative_to(ROOT if room != "mixrank" else ROOT / room) not in kept
    ]
    assert not missing


def test_the_base_install_is_small_and_has_no_tensorflow(light):
    assert not [name for name in HEAVY if (light.site / name).exists()]
    assert light.size < 200 * 2**20


def test_client_and_declarations_are_imported_from_the_base_install(light):
    program = f"""
import sys
import mixrank.schemas
from mixrank.serving.client import AsyncClient, Client
assert Client and AsyncClient and mixrank.schemas.FeatureSpec
assert {str(light.site)!r} in mixrank.schemas.__file__
print(*(set({HEAVY!r}) & set(sys.modules)))
"""
    done = light.run("python", "-c", program)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_base_install_scores_over_rest_and_grpc(light, server, rows_file):
    expected = [{"click": 0.7, "like": 0.5}, {"click": 0.3, "like": 0.5}]
    for url in server.urls:
        program = (
            f"import json; from mixrank.serving.client import Client; client = Client({url!r}, 'films', "
            f"spec={str(server.base)!r}, deadline=60); print(json.dumps(client.score({ROWS!r})))"
        )
        by_client = light.run("python", "-c", program)
        assert by_client.returncode == 0, by_client.stderr
        assert json.loads(by_client.stdout) == [pytest.approx(row) for row in expected]
        by_command = light.run("mixrank", "predict", url, str(rows_file), "--spec", str(server.base))
        assert by_command.returncode == 0, by_command.stderr
        assert [json.loads(line) for line in by_command.stdout.splitlines()] == [pytest.approx(row) for row in expected]


def test_a_command_that_needs_an_extra_names_it_in_one_line(light, server, rows_file):
    ways = {
        "layers": [["models"], ["predict", str(server.base), str(rows_file)]],
        "pipeline": [
            ["run", "movielens"],
            ["serve", "MODEL"],
            ["drift", "MODEL", "rows"],
            ["rollout", "status", "MODEL"],
        ],
    }
    for extra, lines in ways.items():
        for line in lines:
            done = light.run("mixrank", *line)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), (line, done.stderr)
            assert done.stderr.startswith("error: ") and f"needs mixrank[{extra}], which" in done.stderr, done.stderr


def test_other_people_s_packages_of_the_same_names_do_no_harm(light):
    lines = [
        ("mixrank", "--help"),
        ("mixrank", "features", "movielens"),
        ("mixrank", "predict", "--help"),
        ("python", "-m", "mixrank.pipeline.cli", "features", "movielens"),
    ]
    assert (light.site / "pipeline" / "__init__.py").read_text() == RAISES
    before = [light.run(*line) for line in lines]
    assert [done.returncode for done in before] == [0] * len(lines), before
    removed = light.run("pip", "uninstall", "--quiet", "--yes", "rival")
    assert removed.returncode == 0 and not (light.site / "pipeline").exists(), removed.stderr
    after = [light.run(*line) for line in lines]
    assert [(done.returncode, done.stdout) for done in after] == [(0, done.stdout) for done in before]
