"""The Dockerfile's steps, as far as they run without Docker and network; and what they install."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "kubeflow" / "Dockerfile").read_text()
# Import name -> folder.
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
COMPILED = sorted((ROOT / "kubeflow" / "compiled").glob("*.yaml"))


def stage(name: str) -> list[list[str]]:
    """Instructions of one stage, as [word, argument]."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    found, inside = [], False
    for line in filter(None, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            inside = rest.endswith(f" AS {name}")
        elif inside:
            found.append([word, rest])
    return found


def commands(name: str) -> list[str]:
    return [rest for word, rest in stage(name) if word == "RUN"]


def copied(name: str) -> list[str]:
    return [part for word, rest in stage(name) if word == "COPY" for part in rest.split()[:-1]]


def test_packages_come_from_the_lock_file_before_the_code_is_copied():
    steps = [f"{word} {rest}" for word, rest in stage("build")]
    sync = steps.index(
        "RUN uv sync --locked --no-default-groups --extra pipeline --extra s3 --extra gcs --no-install-project"
    )
    assert steps[sync - 1] == "COPY pyproject.toml uv.lock ./"
    assert all("schemas" not in step for step in steps[:sync])


def test_no_web_server_for_notebooks_is_installed():
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert not locked & {"notebook", "jupyterlab", "jupyter-server", "widgetsnbextension"}


def test_the_image_holds_every_package_and_docker_sees_what_it_copies():
    assert set(PACKAGES.values()) <= set(copied("build"))
    seen = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert seen == set(copied("build"))


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_both_variants_run_as_a_user_without_rights(target):
    assert f"FROM runtime AS {target}\n" in DOCKERFILE
    assert ["USER", "1000"] in stage("runtime")
    assert not any(word == "USER" for word, _ in stage(target))
    # Where Kubeflow Pipelines' launcher writes, and the volume.
    (made,) = commands("runtime")
    assert "mkdir /mixrank /minio /s3 /gcs" in made and "chown mixrank /mixrank /minio /s3 /gcs" in made


def test_the_gpu_variant_adds_cuda_and_changes_no_locked_package():
    export, install = commands("build-gpu")
    assert "--locked" in export and "/tmp/locked.txt" in export
    assert install.endswith('--constraint /tmp/locked.txt "tensorflow[and-cuda]"')


def uv() -> str:
    found = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    assert Path(found).is_file(), "uv is missing; `make install` puts it into .uv"
    return found


def test_locked_packages_need_two_files_only_and_none_is_for_development(tmp_path):
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (step,) = [command for command in commands("build") if command.startswith("uv sync")]
    done = subprocess.run(
        [uv(), *step.split()[1:], "--dry-run", "--offline", "--python", sys.executable],
        cwd=tmp_path,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(tmp_path / "environment")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    packages = set(re.findall(r"^ \+ (\S+?)==", done.stderr, re.MULTILINE))
    assert {"tfx", "tensorflow", "keras", "kfp"} < packages
    assert not {"pytest", "ruff", "recbole", "mixrank"} & packages


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs the steps after the locked packages in a clean folder; returns the environment's Python.

    The locked packages are not downloaded again: the environment sees those of this one, without the checkout.
    """
    root = tmp_path_factory.mktemp("image")
    for name in copied("build"):
        if (ROOT / name).is_dir():
            # Docker copies a link as a link, and so does this.
            shutil.copytree(ROOT / name, root / name, symlinks=True)
        else:
            shutil.copyfile(ROOT / name, root / name)
    environment, dist = root / "opt", root / "dist"
    subprocess.run([uv(), "venv", "--quiet", "--offline", "--python", sys.executable, str(environment)], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    # A path added by a .pth file brings no .pth files of its own: an editable install stays outside.
    (packages / "locked.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    after = commands("build")[3:]
    assert [command.split()[1] for command in after] == ["build", "pip"]
    for command in after:
        words = shlex.split(command.replace("/dist", str(dist)).replace("/opt/mixrank", str(environment)))
        done = subprocess.run([uv(), *words[1:], "--offline"], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return environment / "bin" / "python"


def run(python: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *arguments], cwd=python.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def entry_points() -> set[str]:
    """Every dotted path that the compiled pipelines name: executors, and functions in parameters."""
    found = set()
    for path in COMPILED:
        spec = next(yaml.safe_load_all(path.read_text()))
        for executor in spec["deploymentSpec"]["executors"].values():
            *start, module = executor["container"]["command"]
            assert start == ["python", "-m"]
            found.add(module)
            arguments = executor["container"]["args"]
            if module == "mixrank.pipeline.kubeflow.step":
                found.add(arguments[arguments.index("--executor_class_path") + 1])
        for task in spec["root"]["dag"]["tasks"].values():
            for name, value in task["inputs"]["parameters"].items():
                if name in ("run_fn", "preprocessing_fn", "module_path"):
                    found.add(value["runtimeValue"]["constant"])
    return found


IMPORT_ALL = """
import importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        module = importlib.import_module(parent)
        getattr(module, last)
    found[name] = module.__file__
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_entry_point_of_a_compiled_pipeline_imports_from_the_installed_wheel(installed):
    names = entry_points()
    assert {
        "mixrank.components.training.trainer.run_fn",
        "mixrank.components.transform.preprocessing_fn",
        "mixrank.components.judging.evaluation",
        "mixrank.pipeline.kubeflow.day_step",
        "mixrank.pipeline.kubeflow.step",
    } < names
    files = json.loads(run(installed, "-W", "ignore", "-c", IMPORT_ALL, json.dumps(sorted(names))).splitlines()[-1])
    ours = {name: file for name, file in files.items() if not name.startswith("tfx.")}
    assert len(ours) >= 10
    for name, file in ours.items():
        assert Path(file).is_relative_to(installed.parents[1]), f"{name} comes from {file}"


@pytest.mark.slow
def test_a_step_and_the_command_start_from_the_wheel(installed):
    assert "--executor_class_path" in run(installed, "-m", "mixrank.pipeline.kubeflow.step", "--help")
    assert "from raw impression logs" in run(installed.with_name("mixrank"), "--help")


@pytest.mark.slow
def test_every_file_of_the_packages_is_in_the_wheel(installed):
    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    (packages,) = installed.parents[1].glob("lib/python3*/site-packages")
    for name, folder in PACKAGES.items():
        if name != "mixrank":
            assert files(ROOT / folder) == files(packages.joinpath(*name.split("."))) != set()
    assert (packages / "mixrank" / "py.typed").is_file()
