from hypothesis import given
from hypothesis import strategies as st

from data_prep.config import SplitFractions
from data_prep.prepare.splits import SPLITS, split_of


@st.composite
def fractions(draw: st.DrawFn) -> SplitFractions:
    parts = [draw(st.integers(0, 100)) for _ in range(3)]
    total = sum(parts) or 1
    train, val = parts[0] / total, parts[1] / total
    return SplitFractions(train=train, val=val, test=max(0.0, 1 - train - val))


@given(st.text(), fractions())
def test_every_identity_has_exactly_one_split(identity: str, split_fractions: SplitFractions) -> None:
    assert split_of(identity, split_fractions) in SPLITS
    assert split_of(identity, split_fractions) == split_of(identity, split_fractions)


@given(st.text())
def test_a_fraction_of_1_gets_every_identity_and_0_gets_none(identity: str) -> None:
    for name in SPLITS:
        values = {split: float(split == name) for split in SPLITS}
        assert split_of(identity, SplitFractions(**values)) == name


def test_splits_have_about_the_requested_sizes() -> None:
    splits = [split_of(f"person {number}", SplitFractions()) for number in range(5000)]
    for split, fraction in {"train": 0.90, "val": 0.04, "test": 0.06}.items():
        assert abs(splits.count(split) / 5000 - fraction) < 0.015


def test_splits_equal_those_of_the_first_version() -> None:
    names = ["anna", "ben", "cleo", "dario", "elif", "farid"]
    even = SplitFractions(train=0.4, val=0.3, test=0.3)
    assert [split_of(name, even) for name in names] == ["val", "val", "train", "test", "train", "train"]
