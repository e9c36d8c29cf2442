"""Witnesses from hand-made answers: what each says, and each reason why it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from eth_abi.abi import decode, encode

from keeper.abi import load
from keeper.domain import Unknown, Witnessed
from keeper.errors import ChainFault
from keeper.oracles.aggregator import Aggregator, Delayed
from keeper.oracles.delayed import Queued
from keeper.oracles.panel import Panel
from keeper.oracles.twap import MAX_TICK, Twap, price_wad
from keeper.units import WAD

NOW_S = 1_700_000_000
FEED, POOL = "0x" + "fe" * 20, "0x" + "90" * 20
BASE, QUOTE = "0x" + "b0" * 20, "0x" + "d0" * 20
LINK = Aggregator("link", FEED, 3_600, WAD // 200)
OLD = Delayed("osm", FEED, 600, 3_600, WAD // 200)
QUEUE = Queued("queue", FEED, "ETH/USD", 7_200, WAD // 100)
MEAN = Twap("pool", POOL, BASE, QUOTE, 1_800)


def word(value: int) -> bytes:
    return value.to_bytes(32)


TOLD = 2_000 * 10**8


def newest(
    answer: int = 2_000 * 10**8, *, at_s: int = NOW_S - 60, number: int = 7, answered: int = 7
) -> bytes:
    return encode(
        ["uint80", "int256", "uint256", "uint256", "uint80"], [number, answer, at_s, at_s, answered]
    )


def old(answer: int = TOLD, *, at_s: int = NOW_S - 600, number: int = 7, answered: int = 7) -> bytes:
    return encode(["uint80", "int256", "uint256", "uint80"], [number, answer, at_s, answered])


def why(found: Witnessed | Unknown) -> str:
    assert isinstance(found, Unknown), found
    return found.why


# --- aggregators ---------------------------------------------------------------------------------


def test_the_newest_round_is_told_with_its_time_and_its_terms() -> None:
    assert LINK.read([newest(), word(8)], NOW_S) == Witnessed(
        "link", 2_000 * WAD, NOW_S - 60, 3_600, WAD // 200
    )
    assert LINK.read([newest(5 * 10**17), word(18)], NOW_S) == Witnessed(
        "link", WAD // 2, NOW_S - 60, 3_600, WAD // 200
    )


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([b"", word(8)], "no newest round"),
        ([newest()[:-1], word(8)], "no newest round"),
        ([newest(), b""], "it tells no decimals"),
        ([newest(), word(37)], "37 decimals, at most 36"),
        ([newest(0), word(8)], "answer 0, above 0"),
        ([newest(-1), word(8)], "answer -1, above 0"),
        ([newest(at_s=0), word(8)], "round 7 is not answered yet"),
        ([newest(at_s=NOW_S + 1), word(8)], "a round of 1 s too late"),
        ([newest(number=8), word(8)], "round 8 was answered in 7"),
        ([newest(1), word(36)], "less than the least price"),
    ],
)
def test_a_round_that_is_none_is_unknown_and_says_why(answers: Sequence[bytes], said: str) -> None:
    assert why(LINK.read(answers, NOW_S)) == said


def test_a_delayed_round_is_as_old_as_it_has_to_be_and_may_be_older_than_the_heartbeat_by_that() -> None:
    assert OLD.read([old(), word(8)], NOW_S) == Witnessed("osm", 2_000 * WAD, NOW_S - 600, 4_200, WAD // 200)
    assert why(OLD.read([old(at_s=NOW_S - 599), word(8)], NOW_S)) == "a round of 1 s too late"
    assert why(OLD.read([b"", word(8)], NOW_S)) == "no round of 600 s ago among the last 64"
    assert why(OLD.read([old(-1), word(8)], NOW_S)) == "answer -1, above 0"


def test_a_queue_says_what_is_current_where_that_counts() -> None:
    def said(price_wad: int, at_s: int, *, is_ok: bool) -> Witnessed | Unknown:
        return QUEUE.read([encode(["uint256", "uint256", "bool"], [price_wad, at_s, is_ok])], NOW_S)

    assert said(WAD, NOW_S - 90, is_ok=True) == Witnessed("queue", WAD, NOW_S - 90, 7_200, WAD // 100)
    assert why(said(WAD, NOW_S - 90, is_ok=False)) == "its value does not count"
    assert why(said(0, NOW_S - 90, is_ok=True)) == "its value does not count"
    assert why(said(WAD, NOW_S + 9, is_ok=True)) == "a value of 9 s too late"
    assert why(QUEUE.read([b""], NOW_S)) == "no current value"
    [asked] = QUEUE.questions()
    assert decode(["bytes32"], asked.data[4:]) == (b"ETH/USD".ljust(32, b"\0"),)


# --- means ---------------------------------------------------------------------------------------


def observed(
    tick: int = -200_000, liquidity: int = 10**18, *, window_s: int = 1_800, begin: int = 7
) -> bytes:
    per_liquidity = (window_s << 128) // liquidity
    last = (2**160 - 5 + per_liquidity) % 2**160
    return encode(["int56[]", "uint160[]"], [[begin, begin + tick * window_s], [2**160 - 5, last]])


def pool(
    about: bytes,
    *,
    kept: int = 100,
    tokens: tuple[str, str] = (BASE, QUOTE),
    places: tuple[int, int] = (18, 6),
) -> list[bytes]:
    slot = encode(
        ["uint160", "int24", "uint16", "uint16", "uint16", "uint8", "bool"], [1, 2, 3, kept, kept, 0, True]
    )
    return [about, slot, *(encode(["address"], [each]) for each in tokens), *map(word, places)]


def test_a_mean_is_priced_by_its_tick_its_direction_and_both_decimals() -> None:
    found = MEAN.read(pool(observed()), NOW_S)
    assert isinstance(found, Witnessed)
    # 1.0001^-200000 x 10^12, by another program: 2,063.50...
    assert found.price_wad == int(Decimal("1.0001") ** -200_000 * 10**30)
    assert 2_060 * WAD < found.price_wad < 2_070 * WAD
    assert found.at_s == NOW_S
    turned = MEAN.read(pool(observed(200_000), tokens=(QUOTE, BASE)), NOW_S)
    assert turned == found


def test_a_mean_tick_is_rounded_toward_minus_infinity() -> None:
    answer = encode(["int56[]", "uint160[]"], [[0, -1], [0, (1_800 << 128) // 10**18]])
    found = MEAN.read(pool(answer, places=(18, 18)), NOW_S)
    assert isinstance(found, Witnessed)
    assert found.price_wad == price_wad(-1, 0) == 999_900_009_999_000_099


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (pool(b""), "no history of 1800 s"),
        (pool(observed(), kept=1), "it keeps 1 observations, at least 2"),
        (pool(observed(), tokens=(BASE, POOL)), f"a pool of {BASE} and {POOL}"),
        (pool(observed(), places=(18, 37)), "37 decimals, at most 36"),
        (pool(observed(MAX_TICK + 1)), f"tick {MAX_TICK + 1}, at most {MAX_TICK}"),
        (pool(observed(liquidity=99)), "a mean liquidity of 99, at least 100"),
        (
            pool(encode(["int56[]", "uint160[]"], [[0, 0], [5, 5]])),
            "a mean liquidity of 0, at least 100",
        ),
        (pool(encode(["int56[]", "uint160[]"], [[0], [5]])), "1 observations for two"),
    ],
    ids=["short", "one kept", "other tokens", "decimals", "tick", "thin", "still", "one end"],
)
def test_a_mean_that_proves_nothing_is_unknown_and_says_why(answers: Sequence[bytes], said: str) -> None:
    asked = Twap("pool", POOL, BASE, QUOTE, 1_800, least_liquidity=100)
    assert why(asked.read(answers, NOW_S)) == said


def test_what_is_no_pool_is_unknown() -> None:
    assert why(MEAN.read([b""] * 6, NOW_S)).startswith("no pool, or a token without decimals")


@pytest.mark.parametrize("tick", [0, 1, -1, 200_000, -200_000, MAX_TICK, -MAX_TICK])
@pytest.mark.parametrize("digits", [-12, 0, 12])
def test_a_price_is_exact_to_the_last_unit_it_can_have(tick: int, digits: int) -> None:
    # As a ratio of whole numbers, to 80 digits.
    scale = 10**80
    step, places = 10_001, 10_000
    up, down = 1, 1
    base_up, base_down, left = step, places, abs(tick)
    while left:
        if left & 1:
            up, down = up * base_up, down * base_down
            up, down = up * scale // down, scale
        base_up, base_down = (base_up * base_up) * scale // (base_down * base_down), scale
        left >>= 1
    if tick < 0:
        up, down = down, up
    expected = up * WAD * 10 ** max(digits, 0) // (down * 10 ** max(-digits, 0))
    assert abs(price_wad(tick, digits) - expected) <= max(1, expected // 10**45)


# --- together ------------------------------------------------------------------------------------


def answers(*told: bytes) -> list[bytes]:
    return [encode(["bytes[]"], [list(told)])]


def test_all_are_asked_in_one_call_and_each_answers_for_itself() -> None:
    panel = Panel({"ETH/USD": (LINK, MEAN), "BTC/USD": (OLD,)})
    [call] = panel.calls()
    to, questions = decode(load("readers", "WitnessReader").functions["tried"].inputs, call.data[4:])
    assert len(to) == len(questions) == 2 + 6 + 2
    assert to[8] == panel.reader
    found = panel.decode(answers(newest(), word(8), *[b""] * 6, old(), word(8)), NOW_S)
    assert [type(each) for each in found["ETH/USD"]] == [Witnessed, Unknown]
    assert [type(each) for each in found["BTC/USD"]] == [Witnessed]


def test_where_nobody_is_to_be_asked_nothing_is_read() -> None:
    assert (Panel().calls(), Panel().decode([], NOW_S)) == ([], {})


@pytest.mark.parametrize("page", [b"", answers(b"")[0]])
def test_an_answer_that_leaves_one_out_is_a_fault_of_the_node(page: bytes) -> None:
    asked: Any = Panel({"ETH/USD": (LINK,)})
    with pytest.raises(ChainFault):
        asked.decode([page], NOW_S)
