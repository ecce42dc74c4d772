"""A store whose waiting ends when a rank is lost: for a process group that forms, and would otherwise wait for the
address of that rank until its time-out."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

_POLL_S = 0.005


class WatchedStore(dist.Store):
    """`store`, in which `wait` and `get` call `check_ranks` while they wait; it raises what ends them."""

    def __init__(self, store: dist.Store, check_ranks: Callable[[], None]) -> None:
        super().__init__()
        self._store, self._check_ranks = store, check_ranks

    def wait(self, keys: Sequence[str], timeout: Any = None) -> None:
        """Return once all keys are there. The group's own time-out is left to what it does with them."""
        while not self._store.check(list(keys)):
            self._check_ranks()
            time.sleep(_POLL_S)

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._store.get(key)

    def set(self, key: str, value: Any) -> None:
        self._store.set(key, value)

    def check(self, keys: Sequence[str]) -> bool:
        return self._store.check(list(keys))

    def add(self, key: str, amount: int) -> int:
        return self._store.add(key, amount)

    def compare_set(self, key: str, expected: Any, desired: Any) -> bytes:
        return self._store.compare_set(key, expected, desired)

    def delete_key(self, key: str) -> bool:
        return self._store.delete_key(key)

    def num_keys(self) -> int:
        return self._store.num_keys()

    def has_extended_api(self) -> bool:
        """Without it, what reads several keys at once takes `get`, which is watched."""
        return False
