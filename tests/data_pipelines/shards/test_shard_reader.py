"""Threads share a reader of shards."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.common.errors import ShardError
from data_pipelines.shards.index import Index
from data_pipelines.shards.shard_reader import ShardReader


def test_shards_are_opened_by_one_thread_at_a_time(
    write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.load(write_set([0] * 40, ["a"], shard_images=2), "train")
    monkeypatch.setattr("data_pipelines.shards.shard_reader.most_open", lambda: 3)
    reader, errors, inside = ShardReader(index.shards), [], []
    look = reader._looked_at

    def looked_at(shard: int) -> Any:
        inside.append(shard)
        time.sleep(1e-4)  # another thread has its turn
        errors.extend([ShardError("two at a time")] if len(inside) > 1 else [])
        try:
            return look(shard)
        finally:
            inside.pop()

    reader._looked_at = looked_at

    def read(seed: int) -> None:
        try:
            for row in np.random.default_rng(seed).integers(40, size=60):
                reader.encoded(index.shard[row], int(index.offset[row]), int(index.length[row]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
