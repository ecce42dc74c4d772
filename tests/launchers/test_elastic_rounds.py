"""Who takes part in an elastic run: decisions of the coordinator, with a clock that the tests move."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.rounds import LAST_CALL_S, RETURN_S, SILENT_S, Message, Rounds

SETTINGS = {"ranks": 3, "min_ranks": 2, "straggler_s": 20.0, "wait_s": 60.0}


class Ranks:
    """Ranks that are connected to a coordinator, and what it told each of them."""

    def __init__(self, **settings: Any) -> None:
        self.rounds, self.now, self.settings = Rounds(), 100.0, SETTINGS | settings
        self.told: dict[str, list[Message]] = {}
        self.at: dict[str, tuple[int, int, int]] = {}  # round, rank and world size of each

    def pass_on(self, messages: list[tuple[Any, Message]]) -> None:
        for key, message in messages:
            self.told.setdefault(key, []).append(message)
            if "round" in message:
                self.at[key] = message["round"], message["rank"], message["world_size"]

    def connect(self, *names: str, facts: Message | None = None) -> None:
        for name in names:
            number, rank, world_size = self.at.get(name, (0, -1, 0))
            hello = {"name": name, "host": name[0], "place": [0, name], "store": f"store of {name}", "facts": facts}
            hello |= {"settings": self.settings, "round": number, "rank": rank, "world_size": world_size}
            self.pass_on(self.rounds.greet(name, hello, self.now))

    def ask(self, *names: str, step: int = 5, begins: bool = False, stopping: bool = False) -> None:
        for name in names:
            message = {"ask": {"step": step, "begins": begins, "stopping": stopping}}
            self.pass_on(self.rounds.receive(name, message, self.now))

    def lose(self, name: str) -> None:
        self.pass_on(self.rounds.lose(name, "its process is gone"))

    def tick(self, seconds: float = 0.0, silent: tuple[str, ...] = ()) -> None:
        """Time goes by, in which all but the silent say that they live."""
        end = self.now + seconds
        while True:
            for name in self.rounds.ranks.keys() - set(silent):
                self.pass_on(self.rounds.receive(name, {}, self.now))
            self.pass_on(self.rounds.tick(self.now))
            if self.now >= end:
                return
            self.now = min(end, self.now + 1.0)

    def last(self, name: str) -> Message:
        return self.told[name][-1]

    def restart_coordinator(self) -> None:
        self.rounds = Rounds()


@pytest.fixture
def three() -> Ranks:
    """Three ranks in their first round."""
    ranks = Ranks()
    ranks.connect("a", "b", "c")
    ranks.ask("c", "a", "b", step=-1, begins=True)
    ranks.tick()
    return ranks


def test_first_round_has_all_ranks_in_order(three: Ranks) -> None:
    assert three.at == {"a": (1, 0, 3), "b": (1, 1, 3), "c": (1, 2, 3)}
    assert {three.last(name)["store"] for name in "abc"} == {"store of a"}


def test_first_round_waits_for_ranks_but_not_for_ever() -> None:
    ranks = Ranks()
    ranks.connect("a", "b")
    ranks.ask("a", "b", step=-1, begins=True)
    ranks.tick(LAST_CALL_S - 1)
    assert not ranks.at
    ranks.tick(2)
    assert ranks.at == {"a": (1, 0, 2), "b": (1, 1, 2)}


def test_survivors_meet_once_all_have_asked(three: Ranks) -> None:
    three.lose("b")
    assert three.last("a") == {"lost": "b (its process is gone)"} == three.last("c")
    three.ask("c", step=6)
    three.tick(2)
    assert three.at["c"][0] == 1  # a is there, and has not asked yet
    three.ask("a", step=5)
    three.tick()
    assert (three.at["a"], three.at["c"]) == ((2, 0, 2), (2, 1, 2))
    assert (three.last("a")["source"], three.last("a")["in_step"]) == (1, False)  # c is furthest
    assert three.last("a")["left"] == [{"name": "b", "host": "b", "why": "its process is gone"}]


def test_member_that_never_asks_is_left_behind(three: Ranks) -> None:
    three.lose("b")
    three.ask("a")
    three.tick(SETTINGS["straggler_s"] - 1)
    assert three.at["a"][0] == 1
    three.settings["min_ranks"] = 1
    three.tick(2)
    assert three.at["a"] == (2, 0, 1)
    assert "expelled" in three.last("c")


def test_silent_member_counts_as_lost(three: Ranks) -> None:
    three.tick(SILENT_S + 1, silent=("b",))
    assert "lost" in three.last("a")
    assert three.last("b") == {"closing": True}
    three.connect("b")  # it was only away, and nobody has gone on without it
    three.ask("a", "b", "c")
    three.tick()
    assert three.at == {"a": (2, 0, 3), "b": (2, 1, 3), "c": (2, 2, 3)}
    assert three.last("a")["left"] == []


def test_member_that_comes_back_too_late_is_expelled(three: Ranks) -> None:
    three.tick(SILENT_S + 1, silent=("b",))
    three.ask("a", "c")
    three.tick()
    three.connect("b")
    assert "expelled" in three.last("b")
    assert three.at["a"] == (2, 0, 2)


def test_newcomer_joins_when_members_regroup(three: Ranks) -> None:
    three.connect("d")
    assert three.last("d") == {"running": True}
    three.ask("d", step=-1)
    assert three.last("a") == {"joiners": True}
    three.tick(5)
    assert "d" not in three.at
    three.ask("a", "b", "c")
    three.tick()
    assert three.at["d"] == (2, 3, 4)
    assert three.last("a")["joined"] == [{"name": "d", "host": "d"}]
    assert not three.last("a")["new_rank_0"]


def test_rank_that_would_begin_with_others_is_told_to_join(three: Ranks) -> None:
    three.connect("d")
    three.ask("d", step=-1, begins=True)
    assert three.last("d") == {"running": True}
    three.ask("a", "b", "c")
    three.tick()
    assert "d" not in three.at


def test_newcomer_of_another_commit_is_refused(three: Ranks) -> None:
    for name in "abc":
        three.pass_on(three.rounds.receive(name, {"facts": {"commit": "one", "data": "x"}}, three.now))
    three.connect("d", facts={"commit": "another", "data": "x"})
    three.ask("d", step=-1)
    assert three.last("d") == {"refused": "commit: the run has one, this rank another"}
    assert {"joiners": True} not in three.told["a"]  # nobody waits for it
    three.connect("e", facts={"commit": "one", "data": "x"})
    three.ask("e", step=-1)
    assert three.last("a") == {"joiners": True}


def test_coordinator_started_anew_learns_the_round(three: Ranks) -> None:
    three.restart_coordinator()
    three.connect("c")
    three.ask("c")
    three.tick(RETURN_S - 1)
    assert three.at["c"][0] == 1  # a and b may be on their way
    three.connect("a", "b")
    three.ask("a", "b")
    three.tick()
    assert three.at == {"a": (2, 0, 3), "b": (2, 1, 3), "c": (2, 2, 3)}


def test_rank_that_goes_with_the_coordinator_is_recorded(three: Ranks) -> None:
    three.restart_coordinator()
    three.connect("a", "c")
    three.ask("a", "c")
    three.tick(RETURN_S + 1)
    assert three.at == {"a": (2, 0, 2), "b": (1, 1, 3), "c": (2, 1, 2)}
    assert [left["why"] for left in three.last("a")["left"]] == ["gone while the coordinator was"]


def test_suspended_coordinator_blames_nobody(three: Ranks) -> None:
    three.now += 10 * SILENT_S
    three.tick()
    assert all("round" in three.last(name) for name in "abc")


def test_too_few_ranks_wait_and_then_end(three: Ranks) -> None:
    three.lose("b")
    three.lose("c")
    three.ask("a")
    three.tick(SETTINGS["wait_s"] - 1)
    assert three.at["a"][0] == 1
    three.tick(2)
    assert three.at["a"] == (2, 0, 1)
    assert three.last("a")["ends"]
    assert three.last("a")["too_few"] == "1 of at least 2 ranks for 60 s"
    three.connect("d")
    assert "too_few" in three.last("d")


def test_members_that_all_stop_meet_to_save(three: Ranks) -> None:
    three.ask("a", "b", "c", stopping=True)
    three.tick()
    assert three.last("a")["ends"]
    assert three.last("a")["too_few"] is None


def test_newcomer_whose_members_are_gone_begins_anew(three: Ranks) -> None:
    three.connect("d")
    three.ask("d", step=-1)
    for name in "abc":
        three.lose(name)
    three.tick()
    assert three.last("d") == {"expelled": "the ranks that it would have joined are gone"}


def test_newcomer_learns_that_the_run_is_finished(three: Ranks) -> None:
    three.pass_on(three.rounds.receive("a", {"leave": "the run is finished", "finished": True}, three.now))
    three.connect("d")
    assert three.last("d") == {"finished": True}


EVENTS = st.lists(st.tuples(st.sampled_from(["connect", "ask", "lose", "tick", "restart"]), st.sampled_from("abcde")))


@given(EVENTS)
def test_whatever_happens_rounds_are_consistent(events: list[tuple[str, str]]) -> None:
    ranks = Ranks(min_ranks=1)
    seen: dict[str, dict[int, str]] = {}
    asked: set[str] = set()
    for event, name in events:
        if event == "connect":
            ranks.connect(name)
        elif event == "ask" and name in ranks.rounds.ranks:
            ranks.ask(name, begins=name not in ranks.at)
            asked.add(name)
        elif event == "lose":
            ranks.lose(name)
        elif event == "restart":
            for each in list(ranks.rounds.ranks):
                ranks.lose(each)
            ranks.restart_coordinator()
        else:
            ranks.tick(float(ord(name) - ord("a")) ** 3)
        for key, messages in ranks.told.items():
            for message in messages:
                if "round" in message:
                    members = seen.setdefault(message["name"], {})
                    assert members.setdefault(message["rank"], key) == key  # a rank of a round is one process
                    assert key in asked
    for members in seen.values():
        assert sorted(members) == list(range(len(members)))
