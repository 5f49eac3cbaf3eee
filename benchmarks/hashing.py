"""One and two hash functions beside a whole vocabulary: how many values collide, and what a model loses by it.

    python benchmarks/hashing.py                     # collisions alone: half a minute
    python benchmarks/hashing.py --data DATA_DIR     # and AUC and log loss on KuaiRand: about fifteen minutes

Collisions: distinct numbers go through the hash that Transform uses. A value collides fully where another one has all
its buckets and so the same embedding. "formula" is what `mixrank.schemas.Hash` says of it.

KuaiRand: DLRM `tiny` predicts a click from the user, the video and the tab alone, in one pass over the log up to
2022-05-04; the two days after it are scored. Both tables of ids have a row per value of the training days, or the
values are hashed once or twice into tables with a share of that many rows. Means over the seeds; +- is half their
range.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import tensorflow as tf

from mixrank.components.metrics import auc, log_losses
from mixrank.components.training import TrainSettings, build_strategy, compile_for_training
from mixrank.layers.ranking import build_ranker
from mixrank.layers.tokens import hash_rows
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Hash, Key, Label, Scenario, Vocab
from mixrank.schemas.arrow import read_frame

SIZE, RATIOS = 100_000, (0.1, 1.0, 10.0, 100.0)
LOG, LAST_DAY, LAST_TRAINING_DAY = "log_standard_0425_0506.parquet", 20220506, 20220504
TABS, USERS_AND_VIDEOS = tuple(range(15)), ("user_id", "video_id")
SHARES, SEEDS, BATCH = (2.0, 1.0, 0.5, 0.1, 0.02), 3, 512


def hashed(values: np.ndarray, vocab: Hash) -> np.ndarray:
    """Ids of whole numbers, as Transform makes them."""
    texts = tf.strings.as_string(tf.constant(values, tf.int64))
    return tf.strings.to_hash_bucket_fast(texts, vocab.ids).numpy() + 1


def collisions(number: int, size: int, functions: int) -> float:
    """Share of distinct values that another one shares all buckets with, in any order."""
    ids = hashed(np.arange(number), Hash(size=size, functions=functions))
    rows = [np.array(hash_rows(ids, size**j, size)) for j in range(functions)]
    places = np.sort(np.stack(rows, axis=1), axis=1) @ np.array([(size + 1) ** j for j in range(functions)])
    _, count = np.unique(places, return_counts=True)
    return float(count[count > 1].sum() / number)


def spec(vocab: dict[str, Vocab | Hash]) -> FeatureSpec:
    user, video = (Categorical(n, group=g, vocab=vocab[n]) for n, g in zip(vocab, ("user", "item"), strict=True))
    return FeatureSpec(
        name="hashing",
        user=Key("user_id"),
        item=Key("video_id"),
        time=EventTime("time_ms"),
        scenario=Scenario("tab", values=TABS),
        labels=(Label("is_click"),),
        features=(user, video),
    )


def ids_of(train: pd.Series, values: pd.Series, vocab: Vocab | Hash) -> np.ndarray:
    """Ids of the values of a column; a vocabulary is that of its training rows, with one id for all others."""
    if isinstance(vocab, Hash):
        return hashed(values.to_numpy(), vocab)
    known = train.value_counts().index
    found = known.get_indexer(values)
    return np.where(found < 0, len(known), found) + 1


def quality(train: pd.DataFrame, test: pd.DataFrame, vocab: dict[str, Vocab | Hash], seed: int) -> tuple[float, float]:
    """AUC and log loss of a model of its own on the rows of the last days."""
    log = spec(vocab)
    columns = {
        split: {name: ids_of(train[name], frame[name], vocab[name]) for name in USERS_AND_VIDEOS}
        | {"tab": np.where(frame["tab"].isin(TABS), frame["tab"] + 1, len(TABS) + 1).astype(np.int64)}
        for split, frame in (("train", train), ("test", test))
    }
    sizes = {n: 1 + (v.size if isinstance(v, Hash) else train[n].nunique() + 1) for n, v in vocab.items()}
    model = build_ranker(log, sizes, "dlrm", preset="tiny", seed=seed)
    steps = len(train) // BATCH
    settings = TrainSettings(batch_size=BATCH, epochs=1, seed=seed)
    step = compile_for_training(model, log, settings, build_strategy(1), steps=steps)
    order = np.random.default_rng(seed).permutation(len(train))
    rows = {name: values[order] for name, values in columns["train"].items()}
    labels = {"is_click": train["is_click"].to_numpy("float32")[order, None]}
    batches = tf.data.Dataset.from_tensor_slices((rows, labels)).batch(BATCH, drop_remainder=True)
    step.fit(batches, epochs=1, shuffle=False, verbose=0)
    logits = model.predict(columns["test"], batch_size=4096, verbose=0)["is_click"]
    truth, score = test["is_click"].to_numpy(), 1 / (1 + np.exp(-logits.astype(np.float64)))
    return auc(truth, score), float(np.mean(log_losses(truth, score)))


def on_kuairand(folder: Path, shares: list[float], seeds: int) -> list[dict[str, Any]]:
    """One line per way to make ids; prints them."""
    frame = read_frame(folder / LOG)
    frame = frame[frame["date"] <= LAST_DAY]
    train, test = (frame[chosen] for chosen in (frame["date"] <= LAST_TRAINING_DAY, frame["date"] > LAST_TRAINING_DAY))
    known = {name: train[name].nunique() for name in USERS_AND_VIDEOS}
    print(f"{len(train):,} rows to train, {len(test):,} to score;", *(f"{n:,} {name}" for name, n in known.items()))
    ways: dict[str, dict[str, Vocab | Hash]] = {"vocabulary": dict.fromkeys(known, Vocab())}
    for share in shares:
        for functions in (1, 2):
            buckets = {name: Hash(size=max(1, round(share * n)), functions=functions) for name, n in known.items()}
            ways[f"{share:.0%} of the rows, {functions} function{'s' * (functions > 1)}"] = dict(buckets)
    lines = []
    print(f"{'ids':32} {'AUC':>15} {'log loss':>15}")
    for name, vocab in ways.items():
        found = np.array([quality(train, test, vocab, seed) for seed in range(seeds)])
        mean, spread = found.mean(axis=0), np.ptp(found, axis=0) / 2
        print(f"{name:32} {mean[0]:.4f} +- {spread[0]:.4f} {mean[1]:.4f} +- {spread[1]:.4f}", flush=True)
        lines.append({"ids": name, "auc": round(float(mean[0]), 4), "log_loss": round(float(mean[1]), 4)})
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of KuaiRand's log; none: collisions alone")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="rows of a table per known value")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="models per way to make ids")
    options = parser.parse_args()
    figures: dict[str, Any] = {"collisions": []}
    print(f"{'values':>12} {'buckets':>10} {'1 function':>12} {'formula':>9} {'2 functions':>12} {'formula':>9}")
    for ratio in RATIOS:
        number = round(ratio * SIZE)
        one, two = (collisions(number, SIZE, functions) for functions in (1, 2))
        expected = [1 - np.exp(-number / SIZE), 1 - np.exp(-2 * number / SIZE**2)]
        print(f"{number:12,} {SIZE:10,} {one:12.3%} {expected[0]:9.3%} {two:12.3%} {expected[1]:9.3%}", flush=True)
        figures["collisions"].append({"values": number, "buckets": SIZE, "1": round(one, 6), "2": round(two, 6)})
    if options.data:
        figures["kuairand"] = on_kuairand(options.data, options.shares, options.seeds)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
