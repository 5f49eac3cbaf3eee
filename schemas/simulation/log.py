"""A simulated log: drawn a block of users at a time, and written as the raw tables of a real one.

FOLDER/log/*.parquet      impressions and clicks
FOLDER/users.parquet      age band of each user
FOLDER/items.parquet      topic of each item
FOLDER/truth/*.parquet    hidden truth of every row: click probability, taste, intent; not for models
FOLDER/simulation.json    the settings, from which the rest can be drawn again
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixrank.schemas.arrow import open_parquet, pa, pc, pq
from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.simulation.world import AGE_SHARES, AGES, SCENARIO_SHARES, SCENARIOS, Simulation, World, make_world

# Whatever its length, a log ends with this day (UTC), so that one declaration fits all.
LAST_DAY = datetime.date(2024, 6, 30)
DAY_MS = 86_400_000
# Approximate number of impressions in a block: in memory at a time, and in one file.
BLOCK_ROWS = 200_000
SETTINGS = "simulation.json"


@dataclass(frozen=True)
class Events:
    """Impressions, ordered by user and time; every field is an array (rows,).

    Args:
        user, item: ints from 0.
        day: int. Days since the log began.
        time_ms: int. Distinct within a user.
        scenario: int. Position in `SCENARIOS`.
        age: int. Position in `AGES`.
        click: 0 or 1.
        probability: float. True probability of the click.
        taste, intent: ints. Hidden from models.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    day: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    scenario: NDArray[np.int64]
    age: NDArray[np.int64]
    click: NDArray[np.int64]
    probability: NDArray[np.float64]
    taste: NDArray[np.int64]
    intent: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray) -> Events:
        """The given rows."""
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def first_ms(simulation: Simulation) -> int:
    """When the first day begins, milliseconds since 1970 UTC."""
    return int(day_starts(simulation.days)[0])


def day_starts(days: int) -> NDArray[np.int64]:
    """When each day of a log of so many days begins, milliseconds since 1970 UTC."""
    last = (LAST_DAY - datetime.date(1970, 1, 1)).days
    return np.arange(last - days + 1, last + 1, dtype=np.int64) * DAY_MS


def blocks(simulation: Simulation) -> list[range]:
    """The users of each block."""
    size = max(1, round(BLOCK_ROWS / (simulation.days * simulation.impressions)))
    return [range(first, min(first + size, simulation.users)) for first in range(0, simulation.users, size)]


def draw_block(world: World, number: int) -> Events:
    """Draws all impressions of one block of users.

    Args:
        world: the laws.
        number: int in [0, number of `blocks`). Blocks do not depend on each other.
    """
    s = world.simulation
    draw, users = s.generator(2, number), blocks(s)[number]
    age = _ages(s, number)
    taste = draw.integers(s.tastes, size=len(users))
    intent = draw.integers(s.intents, size=(len(users), s.days))
    counts = draw.poisson(s.impressions, size=(len(users), s.days)).ravel()

    place = np.repeat(np.arange(len(counts)), counts)
    user, day = np.divmod(place, s.days)
    rank = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
    moment = draw.random(len(place))
    moment = moment[np.lexsort((moment, place))]
    # At least one millisecond apart: an event at the time of an impression does not count as earlier.
    passed = (moment * (DAY_MS - counts[place])).astype(np.int64) + rank
    item = pick(draw, world.share, len(place))
    scenario = pick(draw, SCENARIO_SHARES, len(place))
    chance = world.probability[
        taste[user], intent[user, day], world.topic[item], scenario, world.quality[item], age[user]
    ]
    return Events(
        user=user + users.start,
        item=item,
        day=day,
        time_ms=first_ms(s) + day * DAY_MS + passed,
        scenario=scenario,
        age=age[user],
        click=(draw.random(len(place)) < chance).astype(np.int64),
        probability=chance,
        taste=taste[user],
        intent=intent[user, day],
    )


def write_log(
    folder: Path, simulation: Simulation, progress: Callable[[range], Iterable[int]] = lambda parts: parts
) -> None:
    """Writes a log, whole or not at all; memory holds one block.

    Args:
        folder: must not exist.
        simulation: its settings.
        progress: wraps the numbers of the blocks, to show how many are done.

    Raises:
        ValueError: if the folder exists.
    """
    check_new(folder)
    world, parts = make_world(simulation), blocks(simulation)

    def write(temporary: Path) -> None:
        for part in ("log", "truth"):
            (temporary / part).mkdir(parents=True)
        (temporary / SETTINGS).write_text(simulation.model_dump_json(indent=1))
        _write(temporary / "items.parquet", {"item_id": np.arange(simulation.items), "topic": world.topic})
        _write(
            temporary / "users.parquet",
            {
                "user_id": np.arange(simulation.users),
                "age_band": pa.DictionaryArray.from_arrays(
                    np.concatenate([_ages(simulation, number) for number in range(len(parts))]), list(AGES)
                ).cast(pa.string()),
            },
        )
        for number in progress(range(len(parts))):
            events = draw_block(world, number)
            keys = {"user_id": events.user, "item_id": events.item, "time_ms": events.time_ms}
            tab = pa.DictionaryArray.from_arrays(events.scenario, list(SCENARIOS)).cast(pa.string())
            name = f"part-{number:05d}.parquet"
            _write(temporary / "log" / name, {**keys, "tab": tab, "click": events.click})
            _write(
                temporary / "truth" / name,
                {**keys, "probability": events.probability, "taste": events.taste, "intent": events.intent},
            )

    write_folder_atomically(folder, write)


def check_new(folder: Path) -> None:
    """Refuses a folder that exists.

    Raises:
        ValueError: naming it.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; a simulated log is written to a folder of its own")


def read_settings(folder: Path) -> Simulation:
    """The settings of a written log.

    Raises:
        ValueError: if the folder holds none.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"{path} does not exist: is {folder} a log that `mixrank simulate clicks` wrote?")
    return Simulation.model_validate_json(path.read_text())


def read_blocks(folder: Path) -> Iterator[Events]:
    """The impressions of a written log with their truth, one block after the other."""
    simulation = read_settings(folder)
    for number, users in enumerate(blocks(simulation)):
        name = f"part-{number:05d}.parquet"
        log, truth = (open_parquet(folder / part / name).read() for part in ("log", "truth"))
        column = {c: log[c].to_numpy() for c in ("user_id", "item_id", "time_ms", "click")}
        column |= {c: truth[c].to_numpy() for c in ("probability", "taste", "intent")}
        tab = log["tab"].combine_chunks()
        yield Events(
            user=column["user_id"],
            item=column["item_id"],
            day=(column["time_ms"] - first_ms(simulation)) // DAY_MS,
            time_ms=column["time_ms"],
            scenario=pc.index_in(tab, pa.array(SCENARIOS)).to_numpy(zero_copy_only=False).astype(np.int64),
            age=_ages(simulation, number)[column["user_id"] - users.start],
            click=column["click"],
            probability=column["probability"],
            taste=column["taste"],
            intent=column["intent"],
        )


def _ages(simulation: Simulation, number: int) -> NDArray[np.int64]:
    """Age of every user of a block."""
    return pick(simulation.generator(1, number), AGE_SHARES, len(blocks(simulation)[number]))


def pick(draw: np.random.Generator, shares: NDArray, count: int) -> NDArray[np.int64]:
    """Numbers drawn by their shares, which add up to 1."""
    bounds = np.cumsum(shares)
    # Sums of floats may fall short of 1.
    return np.searchsorted(bounds[:-1], draw.random(count), side="right").astype(np.int64)


def _write(path: Path, columns: Mapping[str, Any]) -> None:
    pq.write_table(pa.table(dict(columns)), path)
