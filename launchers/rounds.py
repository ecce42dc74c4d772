"""Which ranks take part in an elastic run: the decisions of the coordinator, without sockets or clocks.

A round is a set of ranks with a number of its own. Ranks that have trained together, the members, ask for a new one
when one of them is lost, or when others wait to join; it forms once all members that are left have asked. Numbers of
rounds never repeat: a coordinator that was started anew learns the last one from the members. Times are seconds of any
monotonic clock.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

SILENT_S = 10.0
"""Without a word from a rank, after which it is given up."""
RETURN_S = 3.0
"""Within which ranks find a coordinator that was started anew."""
LAST_CALL_S = 30.0
"""To wait, when nobody trains yet, for ranks beyond the least number."""
Message = dict[str, Any]


@dataclass
class Rank:
    """A rank that is connected. hello: what it said of itself; `asks`: its request for a round, None if it makes
    none."""

    hello: Message
    seen: float
    facts: dict[str, Any]
    asks: Message | None = None
    since: float = 0.0

    @property
    def name(self) -> str:
        return str(self.hello["name"])


@dataclass
class Rounds:
    """All ranks by connection, any hashable key; every method returns messages to send, as (connection, message)."""

    ranks: dict[Any, Rank] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)
    """Connections of the last round, by rank, without those that are lost."""
    number: int = 0
    """Of the last round; 0: none yet."""
    closed: Message | None = None
    """What whoever still comes is told, once the run is over."""
    _expected: int = 0
    _expected_until: float = 0.0
    _looked_at: float | None = None
    _too_few_since: float | None = None
    _left: list[Message] = field(default_factory=list)

    def greet(self, key: Any, hello: Message, now: float) -> list[tuple[Any, Message]]:
        """A rank has connected. `hello`: its name, host, place (orders ranks at the start), store, settings, facts, and
        round and world size, 0 without one."""
        number = int(hello["round"])
        for former in [each for each, rank in self.ranks.items() if rank.name == hello["name"]]:
            self._forget(former)  # its connection before
        self.ranks[key] = Rank(hello, now, hello.get("facts") or {})
        if number and number < self.number:
            return self._refuse(key, "expelled", f"the run has gone on without this rank since round {number}")
        if self.closed is not None and not number:
            del self.ranks[key]
            return [(key, self.closed)]
        if number > self.number:  # this coordinator was started anew
            self.number, self.members = number, []
            self._expected, self._expected_until = int(hello["world_size"]), now + RETURN_S
        if number:
            self.members.append(key)
            self.members.sort(key=lambda each: int(self.ranks[each].hello["rank"]))
            self._left = [left for left in self._left if left["name"] != hello["name"]]
        return [(key, {"running": bool(self.members)})]

    def receive(self, key: Any, message: Message, now: float) -> list[tuple[Any, Message]]:
        """A rank says something: that it lives, its facts, that it asks for a round, or that it leaves."""
        rank = self.ranks.get(key)
        if rank is None:
            return []
        rank.seen = now
        if "facts" in message:
            rank.facts = message["facts"]
        if "leave" in message:
            if message.get("finished"):
                self.closed = {"finished": True}
            return self.lose(key, message["leave"])
        if "ask" in message:
            if self.members and message["ask"]["begins"]:
                return [(key, {"running": True})]  # they have begun without it
            facts = self.ranks[self.members[0]].facts if self.members else {}
            if differing := _differences(facts, rank.facts):
                return self._refuse(key, "refused", differing)
            rank.since = rank.since if rank.asks is not None else now
            rank.asks = message["ask"]
            if key not in self.members:
                return [(member, {"joiners": True}) for member in self.members]
        return []

    def lose(self, key: Any, why: str) -> list[tuple[Any, Message]]:
        """A rank is gone, or given up."""
        rank, was_member = self.ranks.get(key), key in self.members
        self._forget(key)
        if rank is None or not was_member:
            return []
        self._left.append({"name": rank.name, "host": rank.hello["host"], "why": why})
        return [(member, {"lost": f"{rank.name} ({why})"}) for member in self.members]

    def tick(self, now: float) -> list[tuple[Any, Message]]:
        """Give up the silent, and form a round if it is time."""
        messages: list[tuple[Any, Message]] = []
        if self._looked_at is not None and now - self._looked_at > SILENT_S / 2:
            for rank in self.ranks.values():  # this process itself was suspended
                rank.seen = now
        self._looked_at = now
        for key in [key for key, rank in self.ranks.items() if now - rank.seen > SILENT_S]:
            # If it is there after all, it connects again, and takes part as long as no round has formed without it.
            messages += [*self.lose(key, f"silent for {SILENT_S:.0f} s"), (key, {"closing": True})]
        if self.members:
            return messages + self._go_on(now)
        return messages + self._begin(now)

    def _begin(self, now: float) -> list[tuple[Any, Message]]:
        """Nobody trains: wait for as many ranks as are to come, or a while for at least as many as are needed."""
        asking = [(key, rank.asks) for key, rank in self.ranks.items() if rank.asks is not None]
        if alone := [key for key, asks in asking if not asks["begins"]]:
            gone = "the ranks that it would have joined are gone"
            return [message for key in alone for message in self._refuse(key, "expelled", gone)]
        waiting = sorted((key for key, _ in asking), key=self._place)
        if not waiting:
            return []
        settings = self.ranks[waiting[0]].hello["settings"]
        waited_s = now - min(self.ranks[key].since for key in waiting)
        if len(waiting) < settings["min_ranks"]:
            return self._end(waiting, settings) if waited_s > settings["wait_s"] else []
        if len(waiting) < settings["ranks"] and waited_s < LAST_CALL_S:
            return []
        return self._form(waiting, ends=False)

    def _go_on(self, now: float) -> list[tuple[Any, Message]]:
        waiting = [key for key in self.members if self.ranks[key].asks is not None]
        if not waiting or (len(self.members) < self._expected and now < self._expected_until):
            return []
        settings = self.ranks[waiting[0]].hello["settings"]
        asked_s = now - min(self.ranks[key].since for key in waiting)
        messages: list[tuple[Any, Message]] = []
        if len(waiting) < len(self.members):
            if asked_s < settings["straggler_s"]:
                return []
            for key in [key for key in self.members if key not in waiting]:
                messages += self._refuse(key, "expelled", f"it did not answer for {settings['straggler_s']:.0f} s")
        newcomers = [key for key, rank in self.ranks.items() if key not in self.members and rank.asks is not None]
        if len(self.members) < self._expected:
            gone = {"name": "a rank", "host": "unknown", "why": "gone while the coordinator was"}
            self._left += [gone] * (self._expected - len(self.members))
        taking_part = waiting + sorted(newcomers, key=self._place)
        all_stop = all(self.ranks[key].asks["stopping"] for key in waiting)  # type: ignore[index]
        if len(taking_part) >= settings["min_ranks"] or all_stop:
            return messages + self._form(taking_part, ends=all_stop)
        self._too_few_since = now if self._too_few_since is None else self._too_few_since
        if now - self._too_few_since < settings["wait_s"]:
            return messages
        self.closed = {"too_few": _too_few(len(taking_part), settings)}
        return messages + self._form(waiting, ends=True)

    def _form(self, taking_part: list[Any], ends: bool) -> list[tuple[Any, Message]]:
        self.number += 1
        name = f"{self.number}-{secrets.token_hex(4)}"
        ranks = [self.ranks[key] for key in taking_part]
        hosts = [rank.hello["host"] for rank in ranks]
        steps = [int(rank.asks["step"]) for rank in ranks if rank.asks is not None]
        common = {
            "round": self.number,
            "name": name,
            "world_size": len(ranks),
            "store": ranks[0].hello["store"],
            "source": steps.index(max(steps)),
            "in_step": min(steps) == max(steps),
            "new_rank_0": int(ranks[0].hello["rank"]) != 0,
            "ends": ends,
            "too_few": (self.closed or {}).get("too_few"),
            "left": self._left,
            "joined": [
                {"name": rank.name, "host": rank.hello["host"]}
                for key, rank in zip(taking_part, ranks, strict=True)
                if key not in self.members
            ],
        }
        messages = []
        for number, (key, rank) in enumerate(zip(taking_part, ranks, strict=True)):
            mine = {
                "rank": number,
                "local_rank": hosts[:number].count(hosts[number]),
                "on_host": hosts.count(hosts[number]),
            }
            rank.asks, rank.hello["round"], rank.hello["rank"] = None, self.number, number
            messages.append((key, common | mine))
        self.members, self._left, self._too_few_since, self._expected = list(taking_part), [], None, 0
        return messages

    def _place(self, key: Any) -> tuple[list[Any], str]:
        return self.ranks[key].hello["place"], self.ranks[key].name

    def _forget(self, key: Any) -> None:
        self.ranks.pop(key, None)
        if key in self.members:
            self.members.remove(key)

    def _refuse(self, key: Any, kind: str, why: str) -> list[tuple[Any, Message]]:
        return [*self.lose(key, why), (key, {kind: why})]

    def _end(self, waiting: list[Any], settings: dict[str, Any]) -> list[tuple[Any, Message]]:
        why = _too_few(len(waiting), settings)
        return [message for key in waiting for message in self._refuse(key, "too_few", why)]


def _too_few(number: int, settings: dict[str, Any]) -> str:
    return f"{number} of at least {settings['min_ranks']} ranks for {settings['wait_s']:.0f} s"


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    names = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    return "; ".join(f"{name}: the run has {ours[name]}, this rank {theirs[name]}" for name in names)
