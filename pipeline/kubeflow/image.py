"""The name of the container image that holds this code."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]


def image_name() -> str:
    """`mixrank:VERSION-COMMIT`, with `-dirty` behind it if tracked files differ from the commit.

    Outside of a git checkout the installed version says which code it is: `mixrank:VERSION`.
    """
    tag = version("mixrank")
    if (CHECKOUT / ".git").exists():
        tag += f"-{_git('rev-parse', '--short=12', 'HEAD')}"
        tag += "-dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"mixrank:{tag}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
