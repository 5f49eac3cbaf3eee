"""Two processes push, try, promote and roll back on one folder of versions, and are killed: what is listed is whole.

Run as a program, this file is the process whose children are killed: `python test_two_processes.py SEED FOLDER`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mixrank.serving.base.model_versions import versions
from mixrank.serving.rollout.state_machine import Rollout

ROUNDS, COMMANDS, MODELS = 20, 4, 5


def save(folder, number):
    """Something that looks like a SavedModel."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph %d" % number)
    (folder / "variables" / "variables.index").write_bytes(b"index %d" % number)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"weights %d" % number)


def content(folder):
    """What a server reads."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "assets.extra")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def configs(folder):
    """That of the versions, and one that a second team keeps elsewhere."""
    return folder / "shop" / "models.config", folder / "deploy" / "models.config"


def command(folder, rng):
    config = rng.choice(configs(folder))
    steps = Rollout(folder / "shop", config=config, name="shop", say=str)
    keep = rng.choice([None, 2])
    # Refused while the other is at work, or because there is nothing to promote or to return to.
    with suppress(ValueError):
        match rng.choice(["push", "push", "canary", "promote", "rollback"]):
            case "push":
                steps.push(folder / "models" / str(rng.randrange(MODELS)), keep=keep)
            case "canary":
                steps.canary(rng.choice([None, *versions(folder / "shop")]), golden=None)
            case "promote":
                steps.promote(golden=None, keep=keep)
            case "rollback":
                steps.rollback(trial=rng.random() < 0.3)


def interrupt(rng, last):
    """Lets the other process in at some steps, and kills this one after step `last`, if any.

    A step is a file opened to be written, or a name made, changed or removed.
    """
    step, changes = 0, {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "fcntl.flock"}

    def hook(event, arguments):
        nonlocal step
        if event in changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            step += 1
            if step == last:
                os.kill(os.getpid(), signal.SIGKILL)
            if rng.random() < 0.3:
                time.sleep(0.003 * rng.random())

    sys.addaudithook(hook)


def start(folder, seed, dies):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        rng = random.Random(seed)
        interrupt(random.Random(seed), rng.randrange(1, 80) if dies else None)
        for _ in range(COMMANDS):
            command(folder, rng)
        code = 0
    finally:
        os._exit(code)


def check(folder, models):
    base = folder / "shop"
    found = versions(base)
    for version, path in found.items():
        assert content(path) in models, f"version {version} is not whole"
    for config in configs(folder):
        entry = Rollout(base, config=config, name="shop").entry
        assert {*entry.labels.values(), *entry.loaded} <= set(found), f"{config} names a version that is gone"


def drive(seed, folder):
    """Rounds of two processes at once; each dies in half of them."""
    os.fsync = lambda handle: None
    rng = random.Random(seed)
    for number in range(MODELS):
        save(folder / "models" / str(number), number)
    models = [content(folder / "models" / str(number)) for number in range(MODELS)]
    killed = 0
    for at in range(ROUNDS):
        children = [start(folder, rng.random(), rng.random() < 0.5) for _ in range(2)]
        for child in children:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in (0, -signal.SIGKILL), f"round {at} of seed {seed} failed"
            killed += code != 0
        check(folder, models)
    # Whatever has happened, the commands still work and leave nothing lying about.
    for config in configs(folder):
        steps = Rollout(folder / "shop", config=config, name="shop", say=str)
        save(folder / "new" / config.parent.name, MODELS + len(config.parent.name))
        assert steps.canary(steps.push(folder / "new" / config.parent.name), golden=None) == steps.promote(golden=None)
    names = {path.name for path in (folder / "shop").iterdir() if not path.name.isdigit()}
    assert names == {"models.config", ".rollout", ".lock"}, names
    assert "tensorflow" not in sys.modules
    print(killed, len(versions(folder / "shop")))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_that_are_killed_leave_whole_versions_and_labels_on_them(seed, tmp_path):
    done = subprocess.run([sys.executable, __file__, str(seed), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed, listed = map(int, done.stdout.split())
    assert killed > ROUNDS / 8 and listed > 2


if __name__ == "__main__":
    drive(int(sys.argv[1]), Path(sys.argv[2]))
