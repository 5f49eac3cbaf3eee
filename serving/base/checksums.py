"""SHA-256 sums of a version's files: a version that was changed, or copied by half, is refused by the file's name.

`assets.extra/SHA256SUMS` has the format of `sha256sum`, with names as seen from the version's folder:

    cd runs/movielens/serving/movielens/1700000000 && sha256sum --check assets.extra/SHA256SUMS

Model servers do not look at it. It guards against accidents: whoever can change a file can also change its sum.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mixrank.schemas.files import write_text_atomically

SUMS = "assets.extra/SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def files_of(folder: Path) -> dict[str, Path]:
    """Name in a model -> file, of every file but the sums, sorted by name."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: found[name] for name in sorted(found) if name != SUMS}


def write_sums(folder: Path) -> None:
    """Writes the sums of a model that is complete; replaces those that there are."""
    lines = []
    for name, path in files_of(folder).items():
        if not name.isprintable() or "\\" in name:
            raise ValueError(f"{folder} has a file with an unusual name, {name!r}: rename it")
        lines.append(f"{_sum(path)}  {name}\n")
    (folder / SUMS).parent.mkdir(exist_ok=True)
    write_text_atomically(folder / SUMS, "".join(lines))


def check_sums(folder: Path, *, otherwise: str = ", or add --unverified to use it as it is") -> None:
    """Compares every file of a model with its sum.

    Args:
        folder: of the model.
        otherwise: what a user can do besides pushing the model again, for the message.

    Raises:
        ValueError: naming the file that is missing, unknown or changed; or if there are no sums.
    """
    file = folder / SUMS
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {SUMS}, which says whether it is complete: it is half a copy, or another program or an "
            f"older mixrank wrote it. Push it with `mixrank rollout push`{otherwise}"
        )
    known = parse_sums(file.read_text(encoding="utf-8", errors="replace"), str(file))
    found = files_of(folder)
    for name in sorted({*known, *found}):
        if name not in found:
            problem = "is missing"
        elif name not in known:
            problem = f"is not in {SUMS}"
        elif _sum(found[name]) != known[name]:
            problem = "was changed after the version was written"
        else:
            continue
        raise ValueError(f"{folder / name} {problem}: copy or push the version again{otherwise}")


def parse_sums(text: str, where: str) -> dict[str, str]:
    """Name in a model -> sum, of the text of its sums.

    Args:
        text: of `SHA256SUMS`.
        where: its file, for the message.

    Raises:
        ValueError: naming a line that is none.
    """
    known = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise ValueError(f"{where} line {number} is not a SHA-256 sum and a name")
        known[parts[2]] = parts[1]
    return known


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
