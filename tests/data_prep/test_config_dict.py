from data_prep.config_dict import differences, flatten


def test_flatten_gives_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_differences_are_listed_with_both_values() -> None:
    assert differences({"a": 1, "b": 2}, {"b": 3, "c": 4}) == [("a", 1, None), ("b", 2, 3), ("c", None, 4)]
