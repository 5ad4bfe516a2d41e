"""The protocol's bookkeeping: what is sent, taken, refused, and not sent again."""

from poolpilot.controller.xds.subscription import Offered, Request, Subscription, answer, due, heard

TYPE = "t"
ONE = Offered({"A": {"v": 1}, "B": {"v": 1}}, {"A": "1", "B": "1"})
TWO = Offered({"A": {"v": 2}, "B": {"v": 1}}, {"A": "2", "B": "1"})
ALL: frozenset[str] = frozenset()


def sent(known: Subscription, offered: Offered, nonce: str) -> Subscription:
    return answer(known, TYPE, offered, nonce, "v")[0]


def test_an_answer_is_sent_once_and_taken() -> None:
    asked = heard(None, Request(TYPE))
    assert due(asked, ONE)
    known = sent(asked, ONE, "n1")
    assert not due(known, ONE)
    assert known.taken != ONE.of(ALL)
    taken = heard(known, Request(TYPE, nonce="n1"))
    assert taken.taken == ONE.of(ALL)
    assert due(taken, TWO)


def test_what_is_refused_is_not_sent_again_and_what_was_before_is() -> None:
    taken = heard(sent(heard(None, Request(TYPE)), ONE, "n1"), Request(TYPE, nonce="n1"))
    refused = heard(sent(taken, TWO, "n2"), Request(TYPE, nonce="n2", error="bad"))
    assert (refused.refused, refused.taken) == ("bad", ONE.of(ALL))
    assert not due(refused, TWO)
    assert due(refused, ONE)
    again = sent(refused, ONE, "n3")
    assert again.refused is None


def test_an_answer_that_was_overtaken_says_nothing() -> None:
    known = sent(sent(heard(None, Request(TYPE)), ONE, "n1"), TWO, "n2")
    assert heard(known, Request(TYPE, nonce="n1", error="bad")) == known
    assert heard(known, Request(TYPE, nonce="n1")) == known


def test_only_what_is_asked_for_is_sent() -> None:
    known, found = answer(heard(None, Request(TYPE, frozenset({"B", "gone"}))), TYPE, TWO, "n1", "v")
    assert found.resources == ({"v": 1},)
    assert not due(
        heard(known, Request(TYPE, frozenset({"B"}), nonce="n1")), ONE
    )  # A changed, which it did not ask for
    more = heard(known, Request(TYPE, frozenset({"A", "B"}), nonce="n1"))
    assert due(more, TWO)


def test_a_new_stream_starts_afresh() -> None:
    known = heard(sent(heard(None, Request(TYPE)), ONE, "n1"), Request(TYPE, nonce="n1"))
    assert due(heard(known, Request(TYPE)), ONE)
