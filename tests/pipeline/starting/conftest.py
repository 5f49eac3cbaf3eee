"""Small logs as people have them: each writes its files into a folder, with outcomes that depend on user and item."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

START = 1_704_067_200  # 2024-01-01


class World:
    """Users, items and who likes what."""

    def __init__(self, rows: int, users: int, items: int, days: int, seed: int = 0):
        self.draw = np.random.default_rng(seed)
        self.rows, self.users, self.items = rows, users, items
        self.user = self.draw.integers(0, users, rows)
        self.item = np.minimum(self.draw.geometric(3.0 / items, rows) - 1, items - 1)
        self.seconds = START + np.sort(self.draw.integers(0, days * 86_400, rows))
        self.taste = self.draw.normal(0, 1, users)[self.user] + self.draw.normal(0, 1, items)[self.item]

    def happens(self, share: float, steep: float = 1.0) -> np.ndarray:
        """0 or 1 per row, likelier where the user likes the item."""
        chance = 1 / (1 + np.exp(-steep * self.taste - np.log(share / (1 - share))))
        return (self.draw.random(self.rows) < chance).astype(int)


def videos(folder: Path, rows: int = 4000) -> None:
    """The layout of KuaiRand's official CSV files."""
    w = World(rows, rows // 40, 150, 8)
    clicked = w.happens(0.4)
    seen = w.draw.exponential(8000, rows) * clicked
    stamp = pd.to_datetime(w.seconds, unit="s")
    length = w.draw.integers(5000, 60_000, w.items)
    frame = pd.DataFrame(
        {
            "user_id": w.user,
            "video_id": w.item,
            "date": stamp.strftime("%Y%m%d"),
            "hourmin": stamp.hour * 100,
            "time_ms": w.seconds * 1000 + w.draw.integers(0, 1000, rows),
            "is_click": clicked,
            "is_like": clicked * w.happens(0.05),
            "is_follow": 0,
            "is_hate": 0,
            "long_view": clicked * w.happens(0.7),
            "play_time_ms": seen.astype(int),
            "duration_ms": length[w.item],
            "profile_stay_time": (seen / 9).astype(int) * (w.draw.random(rows) < 0.1),
            "is_rand": 0,
            "tab": w.draw.choice([0, 1, 2, 4], rows, p=[0.2, 0.6, 0.15, 0.05]),
        }
    )
    half = rows // 2
    frame[:half].to_csv(folder / "log_standard_4_08_to_4_21_pure.csv", index=False)
    frame[half:].to_csv(folder / "log_standard_4_22_to_5_08_pure.csv", index=False)
    pd.DataFrame(
        {
            "user_id": np.arange(w.users),
            "user_active_degree": w.draw.choice(["full_active", "high_active", "UNKNOWN"], w.users),
            "is_video_author": w.draw.integers(0, 2, w.users),
            "follow_user_num": w.draw.integers(0, 500, w.users),
            "onehot_feat0": w.draw.integers(0, 30, w.users),
        }
    ).to_csv(folder / "user_features_pure.csv", index=False)
    pd.DataFrame(
        {
            "video_id": np.arange(w.items),
            "author_id": w.draw.integers(0, 40, w.items),
            "video_type": w.draw.choice(["NORMAL", "AD"], w.items),
            "upload_dt": pd.to_datetime(START - 86_400 * w.draw.integers(0, 300, w.items), unit="s").strftime(
                "%Y-%m-%d"
            ),
            "video_duration": length,
            "tag": [",".join(map(str, w.draw.choice(20, n, replace=False))) for n in w.draw.integers(1, 4, w.items)],
        }
    ).to_csv(folder / "video_features_basic_pure.csv", index=False)
    pd.DataFrame({"video_id": np.arange(w.items), "show_cnt": 10, "like_cnt": w.draw.integers(0, 99, w.items)}).to_csv(
        folder / "video_features_statistic_pure.csv", index=False
    )


def films(folder: Path, rows: int = 4000) -> None:
    """MovieLens as ratings.csv and movies.csv: few people rate on a second day."""
    frame, w = _ratings(rows)
    frame.columns = ["userId", "movieId", "rating", "timestamp"]
    frame.to_csv(folder / "ratings.csv", index=False)
    kinds = ["Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi", "(no genres listed)"]
    pd.DataFrame(
        {
            "movieId": np.arange(w.items),
            "title": [f"The film of {'abc'[i % 3]}{i} ({1960 + i % 40})" for i in range(w.items)],
            "genres": [
                "|".join(sorted(w.draw.choice(kinds[:5], n, replace=False))) for n in w.draw.integers(1, 4, w.items)
            ],
        }
    ).to_csv(folder / "movies.csv", index=False)


def film_lines(folder: Path, rows: int = 4000) -> None:
    """MovieLens as u.data: no names of columns, and an ending that says nothing."""
    _ratings(rows)[0].to_csv(folder / "u.data", sep="\t", index=False, header=False)


def _ratings(rows: int) -> tuple[pd.DataFrame, World]:
    w = World(rows, rows // 50, 200, 200, seed=1)
    sitting = w.draw.integers(0, 200, w.users) * 86_400
    seconds = START + sitting[w.user] + w.draw.integers(0, 3000, rows)
    rating = np.clip(np.round(3.5 + w.taste + w.draw.normal(0, 0.5, rows)), 1, 5).astype(int)
    frame = pd.DataFrame({"user": w.user, "item": w.item, "rating": rating, "time": seconds})
    return frame.drop_duplicates(["user", "item"]), w


def bandit(folder: Path, rows: int = 4000) -> None:
    """The layout of the Open Bandit Dataset: no user, the policy's propensity, a column without a name."""
    w = World(rows, 60, 30, 7, seed=2)
    hashes = np.array([f"{n * 2654435761 % 2**32:08x}" for n in range(60)])
    stamp = pd.to_datetime(w.seconds, unit="s", utc=True) + pd.to_timedelta(w.draw.integers(0, 10**6, rows), unit="us")
    kind = w.user % 6
    pd.DataFrame(
        {
            "timestamp": stamp.astype(str),
            "item_id": w.item,
            "position": w.draw.integers(1, 4, rows),
            "click": w.happens(0.1, 1.5),
            "propensity_score": w.draw.choice([0.01, 0.02, 0.05], rows),
            "user_feature_0": hashes[kind],
            "user_feature_1": hashes[10 + w.user % 4],
            "user-item_affinity_0": w.draw.random(rows).round(3),
        }
    ).to_csv(folder / "all.csv")


def grocery(folder: Path, rows: int = 4000) -> None:
    """Order lines with products, departments and customers; times without a zone, prices with a comma."""
    w = World(rows, rows // 40, 120, 28, seed=3)
    pd.DataFrame(
        {
            "order_id": np.cumsum(w.draw.random(rows) < 0.3),
            "customer_id": w.user + 1000,
            "product_id": w.item + 1,
            "ordered_at": pd.to_datetime(w.seconds, unit="s").strftime("%Y-%m-%d %H:%M:%S"),
            "channel": w.draw.choice(["web", "app", "store"], rows),
            "add_to_cart_order": w.draw.integers(1, 20, rows),
            "reordered": w.happens(0.5),
        }
    ).to_csv(folder / "orders.csv", index=False, sep=";")
    pd.DataFrame(
        {
            "product_id": np.arange(w.items) + 1,
            "product_name": [f"Product number {i}" for i in range(w.items)],
            "department_id": w.draw.integers(1, 9, w.items),
            "price": [f"{p:.2f}".replace(".", ",") for p in np.exp(w.draw.normal(1, 1, w.items))],
        }
    ).to_csv(folder / "products.csv", index=False, sep=";")
    names = ["bakery", "dairy", "frozen", "fruit", "meat", "pantry", "pets", "snacks"]
    pd.DataFrame({"department_id": np.arange(1, 9), "department": names, "floor": [0, 0, 1, 0, 1, 1, 2, 2]}).to_csv(
        folder / "departments.csv", index=False, sep=";"
    )
    pd.DataFrame({"id": np.arange(w.users) + 1000, "city": w.draw.choice(["Köln", "Bonn", "Trier"], w.users)}).to_csv(
        folder / "customers.csv", index=False, sep=";"
    )


def messy(folder: Path, rows: int = 4000) -> None:
    """Folders by day, ISO times in several zones, decimal commas, words for missing values, a vector, a weight."""
    w = World(rows, rows // 40, 60, 9, seed=4)
    clicked = w.happens(0.3)
    price = np.round(np.exp(w.draw.normal(3, 1, w.items)), 2)
    vector = w.draw.normal(0, 1, (w.items, 6))
    zones = {"+01:00": 1, "Z": 0, "-05:00": -5}
    zone = w.draw.choice(list(zones), rows)
    local = pd.to_datetime(w.seconds, unit="s") + pd.to_timedelta([zones[z] for z in zone], unit="h")
    brands = ["Müller", "東京", "O'Neil", "a,b", 'say "hi"', "Straße"]
    frame = pd.DataFrame(
        {
            "event_time": [f"{t:%Y-%m-%dT%H:%M:%S}{z}" for t, z in zip(local, zone, strict=True)],
            "epoch": w.seconds,
            "user_id": w.user,
            "sku": [f"s{k}" for k in w.item],
            "page": w.draw.choice(["home", "search", "cart"], rows),
            "position": w.draw.integers(1, 21, rows),
            "brand": np.array(brands)[w.item % 6],
            "price": [f"{p:.2f}".replace(".", ",") for p in price[w.item]],
            "price_dot": price[w.item],
            "tags": [
                "|".join(map(str, sorted(w.draw.choice(12, n, replace=False)))) for n in w.draw.integers(0, 4, rows)
            ],
            "emb": ["|".join(f"{x:.4f}" for x in vector[k]) for k in w.item],
            "city": w.draw.choice(["Berlin", "", "NULL", "München", "N/A", "None", "-"], rows),
            "age": w.draw.choice(["18", "35", "", "NULL", "nan", "N/A"], rows),
            "weight": np.where(clicked == 1, 1.0, 10.0),
            "watch": np.round(w.draw.exponential(30, rows) * clicked, 1),
            "clicked": clicked,
            "bought": clicked * w.happens(0.3),
        }
    )
    for number, (day, part) in enumerate(frame.groupby(local.strftime("%Y-%m-%d"))):
        below = folder / f"dt={day}"
        below.mkdir()
        if number % 2:
            part = part.assign(user_id=part.user_id.map("{:06d}".format))
        part.to_csv(below / f"part-{number % 2}.csv{'.gz' if number % 2 == 0 else ''}", index=False)
    (folder / "_SUCCESS").touch()


LOGS = {each.__name__: each for each in (videos, films, film_lines, bandit, grocery, messy)}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Writes a log of that name into a folder `log`, which becomes the one below the current folder."""

    def write(name: str) -> Path:
        monkeypatch.chdir(tmp_path)
        Path("log").mkdir()
        LOGS[name](Path("log"))
        return Path("log")

    return write
