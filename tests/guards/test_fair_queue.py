"""Fair turns: shares by weight, no flood delays others, and first come, first served by user."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llmctl.guards.fair_queue import FairQueue


def filled(**users: tuple[int, int]) -> FairQueue[str]:
    """A queue of so many items of users of such weights, named `a0`, `a1`."""
    queue: FairQueue[str] = FairQueue()
    for user, (number, weight) in users.items():
        for n in range(number):
            queue.add(f"{user}{n}", user, weight)
    return queue


def turns(queue: FairQueue[str], number: int) -> list[str]:
    """The next ones, in order."""
    return [item for _ in range(number) if (item := queue.next()) is not None]


def test_one_user_is_served_in_order() -> None:
    """Then nothing waits."""
    queue = filled(a=(50, 1))
    assert turns(queue, 60) == [f"a{n}" for n in range(50)]
    assert queue.next() is None


@given(served=st.integers(0, 999), weight=st.integers(1, 9))
def test_a_flood_delays_the_first_of_another_by_no_turn_that_is_not_begun(
    served: int, weight: int
) -> None:
    """Whenever it comes, and whatever the weight of the flood: at most that many go before it."""
    queue = filled(a=(1000, weight))
    turns(queue, served)
    queue.add("b0", "b", 1)
    assert queue.ahead("c", 1) <= weight + 1
    assert "b0" in turns(queue, 2)


def test_turns_go_by_weight() -> None:
    """Three of one for one of the other, as long as both wait; to the item in every round."""
    queue = filled(a=(90, 3), b=(90, 1))
    for _ in range(20):
        assert Counter(item[0] for item in turns(queue, 4)) == {"a": 3, "b": 1}


def test_one_who_asks_again_and_again_gets_no_more_than_a_share() -> None:
    """A user of whom never more than one waits does not go before all others each time."""
    queue, order = filled(a=(100, 1)), ""
    for n in range(40):
        if not order or order[-1] == "b":
            queue.add(f"b{n}", "b", 1)
        order += turns(queue, 1)[0][0]
    assert order.count("a") == 20


def test_nobody_saves_turns_up() -> None:
    """One who comes late gets a share from then on, not what it could have had."""
    queue = filled(a=(100, 1))
    turns(queue, 50)
    for n in range(20):
        queue.add(f"b{n}", "b", 1)
    assert Counter(item[0] for item in turns(queue, 20)) == {"a": 10, "b": 10}


def test_what_is_given_up_costs_no_turn() -> None:
    """A thousand items that are taken back leave their user where it was."""
    queue = filled(a=(1000, 1), b=(5, 1))
    for n in range(999):
        queue.remove(f"a{n}", "a")
    queue.remove("a0", "a")
    assert turns(queue, 2) == ["a999", "b0"]
    queue.remove("b4", "b")
    queue.add("c0", "c", 1)
    queue.remove("c0", "c")
    assert turns(queue, 9) == ["b1", "b2", "b3"]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60),
    st.sampled_from("abcd"),
)
def test_those_ahead_are_those_that_go_before(steps: list[tuple[str, bool]], user: str) -> None:
    """What is foretold to a new item is what happens, whatever came before."""
    weights = {"a": 1, "b": 2, "c": 3, "d": 1}
    queue: FairQueue[str] = FairQueue()
    for n, (who, comes) in enumerate(steps):
        if comes:
            queue.add(f"{who}{n}", who, weights[who])
        else:
            queue.next()
    waiting = queue.waiting()
    ahead = queue.ahead(user, weights[user])
    queue.add("mine", user, weights[user])
    order = turns(queue, sum(waiting.values()) + 1)
    assert len(order) == sum(waiting.values()) + 1
    assert order.index("mine") == ahead
