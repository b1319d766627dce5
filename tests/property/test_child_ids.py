"""Ids of children: the same questions get the same ids in any order, and no two of one attempt share one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain.tokens import is_token
from cas_events.runner.child_ids import ChildIds

words = st.text(max_size=5)
questions = st.lists(st.tuples(words, words, words), max_size=30)


@given(questions, st.randoms())
def test_the_order_of_calls_does_not_matter(asked: list[tuple[str, str, str]], random) -> None:
    first, again = ChildIds("parent"), ChildIds("parent")
    ids = [first.next(*question) for question in asked]
    shuffled = random.sample(asked, len(asked))
    assert Counter(again.next(*question) for question in shuffled) == Counter(ids)
    assert len(set(ids)) == len(ids)
    assert all(is_token(id_) for id_ in ids)


@given(words, words, st.lists(words, max_size=5))
def test_a_key_is_a_name_of_its_own(parent: str, other: str, keys: list[str]) -> None:
    ids = ChildIds(parent)
    named = {key: ids.named(key) for key in keys}
    assert len(set(named.values())) == len(named)
    assert named == {key: ids.named(key) for key in keys}
    if parent != other:
        assert not set(named.values()) & {ChildIds(other).named(key) for key in keys}
    assert ids.next("", "agent", "digest") not in named.values()
