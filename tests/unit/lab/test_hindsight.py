"""What the audit finds when it plays a drill through again: false slices, the cliff, the twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from eth_abi.abi import encode

from keeper.domain import (
    Account,
    BucketView,
    ChainTime,
    Fact,
    FeedView,
    FlagState,
    Leg,
    OracleView,
    Phase,
    Refuse,
)
from keeper.lab import twin
from keeper.lab.audit import Healths, follow_health
from keeper.lab.chronicle import Chronicle, SlowRound
from keeper.lab.deploy import Spec
from keeper.lab.paths import Paths, Wick
from keeper.lab.world import World
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.liquidator import Slice, liquidate
from keeper.units import WAD

SPEC = Spec()
RULES = SPEC.rules()
FEEDS = ("BTC/USD", "ETH/USD", "SYN/USD")
ACCOUNT, TAKER = b"\1" * 32, b"\2" * 32
START_S = 1_000
BLOCKS = 6
PEOPLE = SimpleNamespace(
    owners=(SimpleNamespace(person=SimpleNamespace(account=ACCOUNT)),),
    deployed=SimpleNamespace(
        protocol=SimpleNamespace(rules=RULES, quote="0xcc"), tokens={"WETH": "0xdd"}, collaterals={"WETH": 1}
    ),
)
WORLD = cast("World", PEOPLE)


def view(feed: str, fast: int, slow: int | None = None, at: int = START_S) -> FeedView:
    return FeedView(feed, fast * WAD, at, 15, (slow or fast) * WAD, at, True, WAD // 100, 3600, 12)


def seen(feeds: Mapping[str, FeedView]) -> OracleView:
    """Both prices, and buckets that hold a million a minute and nothing yet."""
    return OracleView(feeds, buckets={feed: BucketView(0, 0, 10**6 * WAD) for feed in feeds})


def holder(flag: FlagState | None = None) -> Account:
    """Long 10 BTC from 1,000 with 600 of cash: below maintenance under about 989.47."""
    legs = (Leg(1, 10 * WAD, -10_000 * WAD),)
    phase = Phase.CONFIRMED if flag else Phase.HEALTHY
    return Account(ACCOUNT, phase, 600 * WAD, legs, (), flag=flag or FlagState())


def chronicle(facts: tuple[Fact, ...], fast: dict[int, int], **parts: Any) -> Chronicle:
    """Six blocks; ``fast`` is the price of BTC on chain by block, 1,000 where nothing is said."""
    found: dict[str, Any] = {
        "first": 0,
        "last": BLOCKS,
        "timestamps": {block: START_S + 12 * block for block in range(BLOCKS + 1)},
        "facts": facts,
        "rounds": (),
        "views": {
            block: seen(
                {
                    "BTC/USD": view("BTC/USD", fast.get(block, 1_000), at=START_S + 12 * block),
                    "ETH/USD": view("ETH/USD", 100, at=START_S + 12 * block),
                    "SYN/USD": view("SYN/USD", 10, at=START_S + 12 * block),
                }
            )
            for block in range(BLOCKS + 1)
        },
        "spent": (),
        "calldata": {},
        "drawable_wad": {},
        "_states": {
            ACCOUNT: ((0,), (holder(),)),
            TAKER: ((0,), (Account(TAKER, Phase.HEALTHY, 100_000 * WAD, (), ()),)),
        },
    }
    return Chronicle(**(found | parts))


def paths(lows: dict[int, float]) -> Paths:
    """True prices of BTC, 1,000 but at the given seconds."""
    true = np.tile([1_000.0, 100.0, 10.0], (12 * BLOCKS + 1, 1))
    for second, price in lows.items():
        true[second, 0] = price
    return Paths(1, START_S, BLOCKS, FEEDS, true, true, Wick("BTC/USD", START_S + 5, START_S + 29, -0.1), {})


def event(act: str, block: int, index: int = 0, tx_hash: str = "0x1", **args: Any) -> Fact:
    touched = tuple(args[name] for name in ("account", "taker", "long", "short") if name in args)
    return Fact(block, tx_hash, index, act, touched, args)


def followed(facts: tuple[Fact, ...], fast: dict[int, int], lows: dict[int, float]) -> Healths:
    return follow_health(chronicle(facts, fast), WORLD, paths(lows))


def test_a_slice_on_an_account_that_was_truly_in_breach_is_not_false() -> None:
    found = followed((event("Tranche", 3, account=ACCOUNT, taker=TAKER),), {}, {30: 980.0})
    assert found.false_closes == []


@pytest.mark.parametrize("lows", [{}, {30: 995.0}, {40: 980.0}])
def test_a_slice_on_an_account_that_never_was_is_false(lows: dict[int, float]) -> None:
    found = followed((event("Tranche", 3, account=ACCOUNT, taker=TAKER),), {3: 900}, lows)
    assert len(found.false_closes) == 1
    assert "in block 3" in found.false_closes[0]


def test_an_old_breach_does_not_excuse_a_slice_after_the_cure() -> None:
    facts = (event("Cured", 3, account=ACCOUNT), event("Tranche", 5, account=ACCOUNT, taker=TAKER))
    assert len(followed(facts, {}, {20: 980.0}).false_closes) == 1
    assert followed(facts, {}, {20: 980.0, 50: 980.0}).false_closes == []


def test_the_cliff_takes_the_whole_book_once_at_the_first_fast_breach() -> None:
    assert followed((), {}, {}).cliff == {}
    found = followed((), {2: 985, 3: 1_000, 4: 900}, {})
    assert found.cliff == {ACCOUNT: pytest.approx(9_850.0)}


def test_alarms_under_the_wick_are_counted_apart() -> None:
    facts = (event("Flagged", 1, account=ACCOUNT), event("Flagged", 6, account=ACCOUNT))
    assert followed(facts, {}, {}).wick_flags == 1


# --- the twin ------------------------------------------------------------------------------------

FLAG = FlagState(
    flagged_at_s=START_S, flagged_block=0, tau_s=24, last_poke_s=START_S + 24, confirmed_at_s=START_S + 24,
    tau_at_confirm_s=24, fee_cap_wad=WAD // 50,
)  # fmt: skip
CALL = load("Liquidator").functions["liquidate"]


def sliced(fast: int = 980) -> tuple[Chronicle, Slice]:
    """One slice in block 3, as the adapter computes it, told as the chain would tell it."""
    taker = Account(TAKER, Phase.HEALTHY, 100_000 * WAD, (), ())
    oracles = seen({"BTC/USD": view("BTC/USD", fast, at=START_S + 36)})
    at = ChainTime(3, START_S + 36)
    found = liquidate(holder(FLAG), taker, oracles, at, RULES, max_fraction_wad=WAD)
    assert not isinstance(found, Refuse)
    tranche = event(
        "Tranche", 3, 5, "0xab", account=ACCOUNT, taker=TAKER, fraction_wad=found.fraction_wad,
        q_wad=found.q_wad, kappa_wad=found.kappa_wad, notional_wad=found.notional_wad,
        fee_wad=found.fee.whole_wad, equity_before_wad=found.before.equity_wad,
        requirement_before_wad=found.before.requirement_wad, equity_after_wad=found.after.equity_wad,
        requirement_after_wad=found.after.requirement_wad,
    )  # fmt: skip
    terms = (TAKER, 0, START_S + 99, 0, WAD, 0)
    states = {
        ACCOUNT: ((0, 3), (holder(FLAG), found.account)),
        TAKER: ((0, 3), (taker, found.taker)),
    }
    said = event("FastPrice", 3, 1, "0xaa", feed="BTC/USD", price_wad=fast * WAD, observed_at_s=START_S + 36)
    told = chronicle(
        (said, tranche),
        {2: 990},
        rounds=(SlowRound(3, 0, "BTC/USD", fast * WAD, START_S + 36),),
        calldata={"0xab": CALL.selector + encode(CALL.inputs, (ACCOUNT, terms, []))},
        _states=states,
    )
    buckets = {**told.views[3].buckets, "BTC/USD": found.oracles.buckets["BTC/USD"]}
    views = {**told.views, 3: replace(told.views[3], buckets=buckets)}
    return replace(told, views=views), found


def test_a_slice_that_the_chain_computed_as_the_twin_does_is_equal() -> None:
    told, _ = sliced()
    result = twin.check(told, WORLD)
    assert (result.checked, result.skipped, result.mismatches) == (1, 0, [])


@pytest.mark.parametrize("name", ["fraction_wad", "fee_wad", "equity_after_wad", "requirement_before_wad"])
def test_one_wei_of_difference_is_told(name: str) -> None:
    told, _ = sliced()
    said, tranche = told.facts
    wrong = replace(tranche, args={**tranche.args, name: tranche.args[name] + 1})
    result = twin.check(replace(told, facts=(said, wrong)), WORLD)
    assert len(result.mismatches) == 1
    assert name in result.mismatches[0]


def test_an_account_that_ends_up_otherwise_is_told() -> None:
    told, found = sliced()
    states = {**told._states, ACCOUNT: ((0, 3), (holder(FLAG), replace(found.account, cash_wad=1)))}
    result = twin.check(replace(told, _states=states), WORLD)
    assert len(result.mismatches) == 1
    assert "cash_wad" in result.mismatches[0]


def test_a_slice_after_something_that_is_not_played_through_is_skipped() -> None:
    told, _ = sliced()
    said, tranche = told.facts
    before = event("Expired", 3, 2, "0xa9", account=ACCOUNT)
    result = twin.check(replace(told, facts=(said, before, tranche)), WORLD)
    assert (result.checked, result.skipped, result.mismatches) == (0, 1, [])


def test_trades_and_deposits_earlier_in_the_block_are_played_through() -> None:
    told, _ = sliced()
    said, tranche = told.facts
    bought = event(
        "Traded", 3, 2, "0xa8", long=TAKER, short=b"\3" * 32, market=1, size_wad=WAD, price_wad=1_000 * WAD
    )
    paid = event("Deposited", 3, 3, "0xa9", account=TAKER, token="0xcc", payer="0x", amount_wad=WAD)
    states = {**told._states, b"\3" * 32: ((0,), (Account(b"\3" * 32, Phase.HEALTHY, 0, (), ()),))}
    result = twin.check(replace(told, facts=(said, bought, paid, tranche), _states=states), WORLD)
    assert (result.checked, result.skipped, result.mismatches) == (1, 0, [])


def test_a_bucket_that_the_chain_filled_otherwise_is_told() -> None:
    told, _ = sliced()
    filled = replace(
        told.views[3], buckets={**told.views[3].buckets, "BTC/USD": BucketView(1, 2, 10**6 * WAD)}
    )
    result = twin.check(replace(told, views={**told.views, 3: filled}), WORLD)
    assert len(result.mismatches) == 1
    assert "buckets after block 3: BTC/USD" in result.mismatches[0]


def test_whatever_the_insurance_pays_unforeseen_is_told() -> None:
    told, _ = sliced()
    paid = event("InsurancePaid", 3, 6, "0xab", account=ACCOUNT, taker=TAKER, amount_wad=7)
    result = twin.check(replace(told, facts=(*told.facts, paid)), WORLD)
    assert len(result.mismatches) == 1
    assert "InsurancePaid 7, twin 0" in result.mismatches[0]


def test_after_a_shared_loss_nobody_is_played_through_in_that_block() -> None:
    told, _ = sliced()
    said, tranche = told.facts
    shared = event("LossSocialised", 3, 2, "0xa9", market=1, amount_wad=1, index_wad=1)
    result = twin.check(replace(told, facts=(said, shared, tranche)), WORLD)
    assert (result.checked, result.skipped, result.mismatches) == (0, 1, [])
