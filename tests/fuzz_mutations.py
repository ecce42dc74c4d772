"""Inputs for `tests.fuzz`: whole ones with a few changes."""

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

STRANGE = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"99999999999999999999",
    b"../../../etc/passwd",
    b"/tmp/outside",
    b"$(touch outside)",
    b"`id`",
    b'"',
    b"\n",
    b",",
    b"{}",
    b"[" * 20_000,
    b"null",
    b"\xc3\x28",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e308, "", "../../outside", "/tmp/outside", "\0"),
    *([], {}, [[]], "x" * 4096),
)


def mutated(content: bytes, draws: random.Random, is_json: bool, words: Sequence[bytes] = STRANGE) -> bytes:
    """The content with one to four changes; `words` are put in between."""
    if is_json and draws.random() < 0.6:
        return _mutated_json(content, draws)
    changed = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        place = draws.randrange(len(changed) + 1)
        kind = draws.randrange(6)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << draws.randrange(8)
        elif kind == 1 and changed:
            changed[place % len(changed)] = draws.randrange(256)
        elif kind == 2:
            changed[place : place + draws.randrange(9)] = draws.choice(words)
        elif kind == 3:
            length = len(changed) if draws.random() < 0.5 else draws.randrange(1, 600)
            del changed[place : place + length]
        elif kind == 4:
            start = draws.randrange(len(changed) + 1)
            changed[place:place] = changed[start : start + draws.randrange(1, 600)]
        else:
            changed[place : place + draws.randrange(1, 64)] = draws.randbytes(draws.randrange(1, 64))
    return bytes(changed)


def _mutated_json(content: bytes, draws: random.Random) -> bytes:
    tree = json.loads(content)
    for _ in range(draws.randint(1, 3)):
        node, places = tree, list[tuple[Any, Any]]()
        waiting = [tree]
        while waiting:
            node = waiting.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            places += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
        if not places:
            break
        parent, key = draws.choice(places)
        if draws.random() < 0.2:
            del parent[key]
        else:
            parent[key] = deepcopy(draws.choice(_VALUES))
    return json.dumps(tree).encode()
