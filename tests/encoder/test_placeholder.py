"""The placeholder is a word of its own, in either case, whatever punctuation is around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.placeholder import (
    PLACEHOLDER,
    count_placeholders,
    has_placeholder,
    insert_placeholder,
    replace_placeholder,
)


@pytest.mark.parametrize(
    ("prompt", "replaced"),
    [
        ("a photo of *s", "a photo of X"),
        ("*s", "X"),
        ("*s, smiling", "X, smiling"),
        ("a drawing of *S's hat", "a drawing of X's hat"),
        ("(*s) and *s.", "(X) and X."),
        ("a *s\nin the rain", "a X\nin the rain"),
        ("a *shirt", "a *shirt"),
        ("a**s", "a**s"),
        ("5*s", "5*s"),
        ("*s2", "*s2"),
        ("* s", "* s"),
        ("", ""),
    ],
)
def test_the_placeholder_is_a_word_of_its_own(prompt: str, replaced: str) -> None:
    assert replace_placeholder(prompt, "X") == replaced
    assert has_placeholder(prompt) == (prompt != replaced)
    assert count_placeholders(prompt) == replaced.count("X")


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("a person smiling", "a *s smiling"),
        ("a person, smiling", "a *s, smiling"),
        ("A Person", "A *s"),
        ("PERSON in the rain", "*s in the rain"),
        ("a (person).", "a (*s)."),
        ("a person's hat and a person", "a *s's hat and a person"),
        ("two  spaces  person", "two  spaces  *s"),
        ("a personal hat", None),
        ("a salesperson", None),
        ("a chair", None),
        ("*s on a chair with a person", "*s on a chair with a person"),
    ],
)
def test_the_domain_word_of_a_caption_becomes_the_placeholder(caption: str, prompt: str | None) -> None:
    assert insert_placeholder(caption, "person") == prompt


@given(before=st.text(), after=st.text(), word=st.sampled_from(["person", "c++", "x.y"]))
def test_the_rest_of_a_caption_stays_as_it_is(before: str, after: str, word: str) -> None:
    caption = f"{before} {word} {after}"
    prompt = insert_placeholder(caption, word)
    assert prompt is not None
    if not has_placeholder(caption):
        assert len(prompt) == len(caption) - len(word) + len(PLACEHOLDER)
        assert count_placeholders(prompt) == 1
