"""The visible text of an answer: what comes when, and what never comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm2.answer import Answer


class Letters:
    """A detokenizer in which token n is the n-th of the given pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def finish(self) -> str:
        return ""


def deltas(pieces: list[str], *stop: str) -> list[str]:
    answer = Answer(Letters(pieces), stop)
    result = [answer.push(token) for token in range(len(pieces))] + [answer.finish()]
    assert "".join(result) == answer.text
    return result


def test_space_at_the_ends_is_not_part_of_the_answer() -> None:
    assert deltas([" \n", "a", " ", "b", " ", "\n"]) == ["", "a", "", " b", "", "", ""]


def test_text_before_a_stop_string_comes_and_nothing_after_it() -> None:
    assert deltas(["a", "b<", "en", "d>", "c"], "<end>") == ["a", "b", "", "", "", ""]


def test_what_only_looks_like_a_stop_string_comes_late() -> None:
    assert deltas(["a<", "en", "t"], "<end>") == ["a", "", "<ent", ""]


def test_the_stop_string_that_is_complete_first_counts() -> None:
    assert "".join(deltas(["one two three"], "three", "two", "two three")) == "one"


def test_a_stop_string_may_begin_with_the_space_before_the_answer() -> None:
    assert deltas(["\n", "\n", "Hi"], "\n\n") == ["", "", "", ""]
    assert deltas(["\n", "User", ":", "Hi"], "\nUser:") == ["", "", "", "", ""]
    assert deltas(["\n", "Use", "Hi"], "\nUser:") == ["", "", "UseHi", ""]


def test_broken_character_comes_with_what_follows_it() -> None:
    assert deltas(["a", "\ufffd", "\ufffdb", "\ufffd"]) == ["a", "", "\ufffd\ufffdb", "", "\ufffd"]


def test_training_time_is_replaced_across_tokens() -> None:
    assert deltas(["在[[", "训练", "时间]]", "。"]) == ["在", "", "2023年", "。", ""]


def test_start_of_a_substitution_that_never_ends_comes_at_the_end() -> None:
    assert deltas(["a", "[[训"]) == ["a", "", "[[训"]


@given(
    st.lists(st.text(alphabet="ab \n<>[训", max_size=4), max_size=12),
    st.lists(st.text(alphabet="ab \n<>", min_size=1, max_size=3)),
)
def test_deltas_do_not_depend_on_where_tokens_end(pieces: list[str], stop: list[str]) -> None:
    assert "".join(deltas(pieces, *stop)) == "".join(deltas(list("".join(pieces)), *stop))


@pytest.mark.parametrize("stop", ["b", "bc", "c"])
def test_stop_string_inside_one_token(stop: str) -> None:
    assert "".join(deltas(["abcd"], stop)) == "abcd"[: "abcd".index(stop)]
