"""A disk that is full or broken at a call of a push."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fault_parts.common import (
    Ground,
    Tally,
    end_of,
    fork,
    mixrank,
    silence,
    temporary,
    unclear,
)
from fault_parts.shop import Shop, content


def disk(ground: Ground) -> list[Tally]:
    found = []
    for code in (errno.ENOSPC, errno.EIO):
        for stays in (False, True):
            what = f"{errno.errorcode[code]} at a call of a push{', and at all that follow' if stays else ''}"
            found.append(_failing_pushes(Tally(what, 0), ground.folder / f"{code}-{stays}", code, stays, ground.share))
    return found


def _failing_pushes(tally: Tally, folder: Path, code: int, stays: bool, share: float) -> Tally:
    shop, said = Shop(folder), folder / "said"
    with silence():
        mixrank("rollout", "push", shop.base, shop.model()), mixrank("rollout", "canary", shop.base)
        mixrank("rollout", "promote", shop.base, "--unchecked")
    model = shop.model()

    def push(number: int) -> int:
        with failing_disk(number, code, stays) as calls:
            ended = mixrank("rollout", "push", shop.base, model)
        print(f"{calls[0]} calls")
        return ended

    def again() -> int:
        """The same push on a disk that works: the model is there, whole, and is then taken away."""
        before = shop.versions()
        ended = end_of(fork(partial(push, 0), said))
        new = set(shop.versions()) - set(before)
        whole = len(new) == 1 and content(shop.versions()[new.pop()]) == shop.pushed[-1]
        tally.expect(ended == 0 and whole, f"a push without a fault: {ended} {said.read_text()[-300:]}")
        tally.expect(not temporary(shop.base), f"a push without a fault leaves {temporary(shop.base)}")
        shutil.rmtree(shop.base / str(max(shop.versions())))
        return int(said.read_text().split()[-2])

    whole = again()
    tally.of = max(1, round(share * whole))
    for number in sorted(random.Random(tally.what).sample(range(1, whole + 1), tally.of)):
        before, labels = shop.versions(), shop.entry().labels
        ended = end_of(fork(partial(push, number), said))
        text, new = said.read_text(), set(shop.versions()) - set(before)
        shop.check(tally, f"call {number}")
        tally.expect(shop.entry().labels == labels, f"call {number}: labels are {shop.entry().labels}")
        tally.expect(ended in (0, 1) and not unclear(text), f"call {number}: {ended} {text[-300:]}")
        # Where nothing can be renamed any more, the name of a whole version cannot be taken back.
        fine = bool(new) == (ended == 0) or (stays and len(new) == 1)
        tally.expect(fine, f"call {number}: exit code {ended}, and {len(new)} new versions")
        tally.expect(stays or not temporary(shop.base), f"call {number}: left {temporary(shop.base)}")
        for version in new:
            shutil.rmtree(shop.base / str(version))
        again()
        tally.count()
    tally.note = f"of {whole} calls; the next push succeeded"
    return tally


@contextmanager
def failing_disk(number: int, code: int, stays: bool) -> Iterator[list[int]]:
    """A disk whose call of that number fails; 0 is none.

    Calls are those that make, write, sync or rename a file or a folder. Only whoever removes something always succeeds.

    Args:
        number: of the first call that fails.
        code: of the error.
        stays: whether all later calls fail as well.
    """
    calls, real = [0], {name: getattr(os, name) for name in ("open", "write", "sendfile", "fsync", "mkdir", "rename")}
    real["replace"], opened = os.replace, io.open

    def call() -> None:
        calls[0] += 1
        if number and (calls[0] == number or (stays and calls[0] > number)):
            raise OSError(code, os.strerror(code))

    def checked(name: str, *arguments: Any, **options: Any) -> Any:
        if (name != "open" or arguments[1] & os.O_CREAT) and (name != "write" or arguments[0] > 2):
            call()
        return real[name](*arguments, **options)

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            call()
            return super().write(data)

    def open_(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or file in (1, 2):
            return opened(file, mode, buffering, *arguments, **options)
        if not isinstance(file, int):
            call()
        raw = File(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, *arguments, **options)
        text.mode = mode
        return text

    for name in real:
        setattr(os, name, partial(checked, name))
    io.open = builtins.open = open_  # type: ignore[assignment]
    try:
        yield calls
    finally:
        io.open = builtins.open = opened
        for name, function in real.items():
            setattr(os, name, function)
