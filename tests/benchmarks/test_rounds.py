from benchmarks.rounds import race, ratio


def test_every_contender_runs_once_a_round_and_backwards_in_every_second() -> None:
    order: list[str] = []
    found = race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in found.values()] == [3, 3]


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([2.0, 9.0, 8.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "least": 2.0, "most": 3.0}
