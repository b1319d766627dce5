"""Names of questions, and turns on a thread: the pure rules, for any history (issue 4, items 3 and 4)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain import events
from cas_events.domain.interrupts import Dialogue, Question, dialogue_of, parse_wire_id, wire_id
from cas_events.domain.tokens import is_token
from cas_events.domain.turns import STRATEGIES, Place, leave, take_turn

ids = st.text("abcdef0123456789", min_size=1, max_size=32)


@given(ids, st.integers(1, 10**9))
def test_a_name_says_its_question(id_: str, n: int) -> None:
    assert parse_wire_id(wire_id(id_, n)) == (id_, n)
    assert is_token(wire_id(id_, n))


@given(st.data())
def test_no_name_is_asked_again_once_it_was_answered(data: st.DataObject) -> None:
    """A graph with a few questions, whose answers it takes or refuses; crashes list what is pending once more."""
    pending = data.draw(st.sets(st.sampled_from("abcd"), min_size=1))
    story: list[tuple[str, dict[str, Any]]] = []
    answered: set[str] = set()
    refused: set[str] = set()
    while pending and len(story) < 40:
        dialogue = dialogue_of(story)
        names = dialogue.names([Question(id=id_) for id_ in sorted(pending)], refused=refused)
        assert not answered & set(names.values())
        before = {parse_wire_id(name)[0]: name for name in dialogue.open}
        for id_ in pending - refused:
            assert names[id_] == before.get(id_, names[id_])  # What was not refused keeps its name.
        story.append((events.INTERRUPTED, {"interrupts": [{"id": name} for name in names.values()]}))
        chosen = data.draw(st.sampled_from(sorted(pending)))
        story.append((events.RESUMED, {"interrupt_id": names[chosen], "value": len(story)}))
        answered.add(names[chosen])
        assert dialogue_of(story).answers[chosen] == len(story) - 1
        refused = {chosen} if data.draw(st.booleans()) else set()
        pending -= {chosen} - refused


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "value"]), inner),
    max_leaves=10,
)


@given(st.lists(st.tuples(st.sampled_from([events.INTERRUPTED, events.RESUMED, "x"]), odd, odd, odd)))
def test_foreign_values_break_nothing(story: list[tuple[str, Any, Any, Any]]) -> None:
    dialogue = dialogue_of(
        (type_, {"interrupts": listed, "interrupt_id": name, "value": value})
        for type_, listed, name, value in story
    )
    assert isinstance(dialogue, Dialogue)


tasks = st.integers(0, 6).map(lambda n: ("agent", f"t{n}"))


@given(st.lists(st.tuples(st.sampled_from(["come", "end"]), tasks, st.sampled_from(STRATEGIES)), max_size=60))
def test_one_task_has_the_thread_and_the_others_come_in_order(story: list[tuple[str, Any, Any]]) -> None:
    line: tuple[Place, ...] = ()
    ended: set[Any] = set()
    arrived: list[Any] = []
    for what, me, strategy in story:
        if what == "end":
            if line and line[0].key == me:  # Who has the thread ends; the line may be told, or find out.
                ended.add(me)
                line = leave(line, me) if strategy == "enqueue" else line
            continue
        if me in ended:
            continue
        others_before = [place.key for place in line if place.key not in ended and place.key != me]
        verdict = take_turn(line, me, strategy, ended=ended)
        line = verdict.line
        keys = [place.key for place in line]
        assert len(keys) == len(set(keys))
        assert verdict.is_refused == (me not in keys)
        if me not in arrived and not verdict.is_refused:
            arrived.append(me)
        assert keys == [key for key in arrived if key in keys]
        assert verdict.is_mine == (keys[:1] == [me])
        if verdict.is_refused:
            assert strategy == "reject"
            assert others_before
        if strategy in {"enqueue", "reject"}:
            assert not verdict.ahead
        else:
            assert list(verdict.ahead) == keys[: keys.index(me)]
