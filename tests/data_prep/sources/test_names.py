import re
from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.names import MAX_KEY_BYTES, Keys, hashed_key, make_key, split_suffix

AWKWARD = st.text(st.sampled_from("ab_/.-0 é\udcff"), min_size=1, max_size=8)
NAMES = AWKWARD | st.text(min_size=1, max_size=12) | st.text("x_/", min_size=170, max_size=200)


def test_a_path_of_safe_names_becomes_a_key_with_underscores_for_slashes() -> None:
    assert make_key("cat01/0") == "cat01__0"
    assert make_key("été/straße-3") == "été__straße-3"


def test_an_unsafe_or_long_name_gets_a_hash() -> None:
    assert re.fullmatch(r"a_b-[0-9a-f]{10}", make_key("a b"))
    assert re.fullmatch(r"x{169}-[0-9a-f]{10}", make_key("x" * 181))


def test_names_with_underscores_and_slashes_have_different_keys() -> None:
    assert len({make_key(name) for name in ("a/b", "a__b", "a_/b", "a/_b", "a___b", "a//b")}) == 6


def test_a_name_that_looks_like_a_hashed_one_is_hashed() -> None:
    assert make_key(make_key("a b")) != make_key("a b")


@settings(max_examples=300, deadline=None)
@given(NAMES)
def test_a_key_is_safe_as_the_base_name_of_a_member(name: str) -> None:
    key = make_key(name)
    assert re.fullmatch(r"[\w\-]+", key)
    assert len(key.encode()) <= MAX_KEY_BYTES


@settings(max_examples=300, deadline=None)
@given(st.sets(NAMES, min_size=2, max_size=20))
def test_different_names_have_different_keys(names: set[str]) -> None:
    assert len({make_key(name) for name in names}) == len(names)


@settings(max_examples=200, deadline=None)
@given(st.sets(st.tuples(AWKWARD, st.sampled_from((".png", ".jpg", ".PNG"))), min_size=2, max_size=12))
def test_different_paths_have_different_keys(parts: set[tuple[str, str]]) -> None:
    paths = sorted({name + suffix for name, suffix in parts if PurePosixPath(name + suffix).suffix == suffix})
    keys = Keys()
    assert len({keys.assign(path) for path in paths}) == len(paths)


def test_the_first_of_two_files_that_differ_by_suffix_keeps_the_name() -> None:
    keys = Keys()
    assert [keys.assign("a/0.jpg"), keys.assign("a/0.png")] == ["a__0", hashed_key("a/0", ".png")]


def test_a_file_without_suffix_may_share_its_name_with_others() -> None:
    keys = Keys()
    assert len({keys.assign("a b.jpg"), keys.assign("a b"), keys.assign("a b.png")}) == 3


def test_a_salt_distinguishes_samples_that_share_a_name() -> None:
    assert len({hashed_key("a"), hashed_key("a", "row 1"), hashed_key("a", "row 2")}) == 3


def test_only_the_last_suffix_is_removed() -> None:
    assert split_suffix("a.b/c.d.png") == ("a.b/c.d", ".png")
