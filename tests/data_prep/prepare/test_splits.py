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
def test_an_identity_has_one_split_whatever_its_name(identity: str, shares: SplitFractions) -> None:
    assert split_of(identity, shares) in SPLITS
    assert split_of(identity, shares) == split_of(identity, shares)


@given(st.text())
def test_a_share_of_nothing_gets_nothing_and_of_all_everything(identity: str) -> None:
    for name in SPLITS:
        shares = {split: float(split == name) for split in SPLITS}
        assert split_of(identity, SplitFractions(**shares)) == name


def test_shares_come_out_about_as_asked() -> None:
    found = [split_of(f"person {number}", SplitFractions()) for number in range(5000)]
    for split, share in {"train": 0.90, "val": 0.04, "test": 0.06}.items():
        assert abs(found.count(split) / 5000 - share) < 0.015


def test_splits_stay_what_they_were_when_the_first_sets_were_made() -> None:
    names = ["anna", "ben", "cleo", "dario", "elif", "farid"]
    even = SplitFractions(train=0.4, val=0.3, test=0.3)
    assert [split_of(name, even) for name in names] == ["val", "val", "train", "test", "train", "train"]
