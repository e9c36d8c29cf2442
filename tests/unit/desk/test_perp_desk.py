"""Whom Perpetual's desk looks at, what it waits for, and what one takeover leaves for the next."""

from dataclasses import replace

import pytest
from eth_abi.abi import encode

from keeper.confirm.policy import BALANCED, Policies, tuned
from keeper.desk.perp import ROUND, Params, PerpDesk, Sitting
from keeper.desk.port import Alarm, Judgement, Tried
from keeper.domain import (
    Agree,
    Call,
    ChainTime,
    Posture,
    Quote,
    Reason,
    Record,
    Refuse,
    Seen,
    Step,
    TakeOver,
    Unknown,
    Wait,
)
from keeper.errors import ChainFault, ConfigError
from keeper.lending.words import FlashTakeOver, Lender
from keeper.plan import perp as plan
from keeper.plan.economics import Prudence
from keeper.plan.lending import FlashParams
from keeper.plan.rest import Rest
from keeper.protocols.perp_curie.codec import MarketView, PerpWorld
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.protocols.perp_curie.rows import Account
from keeper.units import WAD, FeedId
from tests.unit.protocols.perp_curie.perps import (
    DEPLOYMENT,
    ETH,
    MARKET,
    NOW_S,
    account,
    book_of,
    key,
    view,
    world,
)

WALLET = "0x" + "00" * 19 + "09"
DESK = PerpDesk(WALLET, Params("ETH/USD"))
RICH = account(9, 50_000, {})
ALARM = Alarm("case", False, ChainTime(1_000, NOW_S))
LONG = account(1, 1_000, {0: (10, -20_000)})
LAGGING = replace(view(2_100), spot_wad=1_950 * WAD, twap_wad=2_100 * WAD)
"""The pool has fallen, its mean and the index have not."""


def said(eth: int | None) -> dict[FeedId, Quote | Unknown]:
    quote = Quote("ETH/USD", eth * WAD, NOW_S) if eth else Unknown("ETH/USD", "silent")
    return {"ETH/USD": quote}


def sitting(
    seen: PerpWorld,
    *accounts: Account,
    fast: int | None = None,
    taker: Account = RICH,
    at_s: int = NOW_S + 36,
) -> Sitting:
    return DESK.sit(
        MARKET,
        book_of(taker, *accounts),
        seen,
        None,
        quotes=said(fast),
        gas_price_wei=10**8,
        at=ChainTime(1_000, at_s),
        posture=Posture(),
        witnesses={},
        record=Record(),
    )


def judged(at: Sitting, number: int = 1) -> Judgement[Sitting]:
    found = DESK.judge(at, key(number), ALARM)
    assert isinstance(found, Judgement)
    return found


def size_of(found: Judgement[Sitting]) -> int:
    assert isinstance(found.decision, tuple)
    (step,) = found.decision
    assert isinstance(step, Step)
    assert isinstance(step.act, TakeOver)
    return step.act.size_wad


# --- one account ---------------------------------------------------------------------------------


def test_a_healthy_account_needs_no_case_however_suspect() -> None:
    found = judged(sitting(world(2_100), LONG, fast=2_100))
    assert (found.cared, found.phase, found.decision) == (False, "healthy", None)
    assert found.health == pytest.approx(2_000 / 1_312.5)


def test_where_only_the_fast_mark_breaches_the_contract_is_waited_for() -> None:
    found = judged(sitting(world(LAGGING), LONG, fast=1_900))
    assert isinstance(found.decision, Wait)
    assert found.decision.reason.rule == "confirm.oracle_lags"
    assert found.decision.reason.evidence == "chain 2000.00 of 1312.50, fast 500.00 of 1218.75"
    assert (found.cared, found.phase) == (True, "breached at fast")


def test_a_breach_at_both_clocks_is_acted_on_and_says_what_both_said() -> None:
    found = judged(sitting(world(1_980), LONG, fast=1_980))
    assert size_of(found) == 5 * WAD
    found_at_both = "chain 800.00 of 1237.50, fast 800.00 of 1237.50; ETH/USD by own"
    assert found.agreed == Agree(found_at_both, "balanced", key(1), 1_000)
    assert found.phase == "breached at chain and fast"
    assert found.left.means.taker.trader.positions[0].size_wad == 5 * WAD


def test_a_fast_price_that_clears_the_account_is_waited_for() -> None:
    falling = world(replace(view(1_980), twap_wad=2_100 * WAD))
    for at_s in (NOW_S + 24, NOW_S + 3_600):
        found = judged(sitting(falling, LONG, fast=2_100, at_s=at_s))
        assert isinstance(found.decision, Wait)
        assert (found.decision.reason.rule, found.decision.until_block) == ("confirm.fast_disagrees", 1_001)


def test_without_a_fast_price_nothing_is_taken_but_by_the_operator_s_own_word() -> None:
    own = Policies(tuned(BALANCED, trust_chain_after_s=24))
    trusting = replace(DESK, params=replace(DESK.params, confirm=own))
    for at_s, size_wad in ((NOW_S + 12, None), (NOW_S + 36, 5 * WAD)):
        quiet = sitting(world(1_980), LONG, at_s=at_s)
        held = judged(quiet)
        assert isinstance(held.decision, Wait)
        assert held.decision.reason.rule == "confirm.unsupported"
        found = trusting.judge(quiet, key(1), ALARM)
        assert isinstance(found, Judgement)
        assert isinstance(found.decision, Wait) if size_wad is None else size_of(found) == size_wad


def test_a_market_that_no_feed_moves_is_closed_by_the_operator_s_own_word_alone() -> None:
    blind = PerpCurieMarket(replace(DEPLOYMENT, feeds=(None, "BTC/USD")))
    at = replace(sitting(world(1_980), LONG, fast=1_980), market=blind)
    held = judged(at)
    assert isinstance(held.decision, Wait)
    assert held.decision.reason.rule == "confirm.unsupported"
    assert held.decision.reason.evidence.endswith(f"nobody else speaks of market {ETH}")
    for market, cared in ((blind, True), (MARKET, False)):
        long_ago = replace(ALARM, since=ChainTime(1, NOW_S - 3_600))
        found = DESK.judge(replace(sitting(world(1_980), LONG), market=market), key(1), long_ago)
        assert isinstance(found, Judgement)
        assert found.cared == cared
    own = Policies(tuned(BALANCED, trust_chain_after_s=24))
    trusting = replace(DESK, params=replace(DESK.params, confirm=own))
    shown = replace(ALARM, shown=ChainTime(997, NOW_S))
    found = trusting.judge(at, key(1), shown)
    assert isinstance(found, Judgement)
    assert size_of(found) == 5 * WAD


def test_prices_too_far_apart_are_not_acted_on() -> None:
    found = judged(sitting(world(1_980), LONG, fast=1_300))
    assert isinstance(found.decision, Refuse)
    assert found.decision.reason.rule == "oracle.divergent"


def test_what_cannot_be_judged_is_unknown_and_says_why() -> None:
    maker = account(1, 0, {0: (10, -20_000)}, barred=1)
    found = DESK.judge(sitting(world(1_980), maker), key(1), ALARM)
    assert isinstance(found, Unknown)
    assert found.why == "has orders, and makers are not judged"
    assert isinstance(DESK.judge(sitting(world(1_980)), key(1), ALARM), Unknown)


def test_the_next_takeover_of_a_block_finds_the_margin_that_the_first_one_leaves() -> None:
    other = account(2, 1_000, {0: (10, -20_000)})
    small = account(9, 1_000, {})
    first = judged(sitting(world(1_980), LONG, other, fast=1_980, taker=small))
    assert size_of(first) == 5 * WAD
    assert 0 < size_of(judged(first.left, 2)) < WAD // 4


def test_another_size_of_the_positions_is_another_state() -> None:
    less = account(1, 1_000, {0: (9, -18_000)})
    states = {judged(sitting(world(1_950), each)).state for each in (LONG, less)}
    assert len(states) == 2


def test_the_only_step_is_picked() -> None:
    found = judged(sitting(world(1_980), LONG, fast=1_980))
    assert isinstance(found.decision, tuple)
    tried = Tried(found.decision[0], Call("0x", b""), b"")
    assert DESK.pick(found.left, [tried]) is tried


def test_an_account_that_was_just_restored_rests() -> None:
    at = sitting(world(1_980), LONG, fast=1_980)
    before = MARKET.stand(LONG, at.world)
    assert not isinstance(before, Unknown)
    closed = Seen(NOW_S, before.value_wad * WAD // before.required_wad)
    assert isinstance(judged(at).decision, tuple)
    params = plan.Params(prudence=Prudence(rest=Rest(band_wad=WAD // 2)))
    resting = replace(DESK, params=replace(DESK.params, plan=params))
    found = resting.judge(at, key(1), replace(ALARM, closed=closed))
    assert isinstance(found, Judgement)
    assert isinstance(found.decision, Wait)
    assert found.decision.reason.rule == "size.rest"


def test_the_next_takeover_finds_what_this_one_took() -> None:
    found = judged(sitting(world(1_980), LONG, fast=1_980))
    assert isinstance(found.decision, tuple)
    [(market, wad)] = found.decision[0].takes
    assert found.left.means.record.moved_wad == {market: wad}


# --- all of them ---------------------------------------------------------------------------------


def test_suspects_come_first_then_cases_then_whose_turn_it_is_and_never_the_keeper() -> None:
    many = [account(number, 10, {0: (1, -2_000)}) for number in range(20, 20 + 2 * ROUND)]
    bare = account(5, 10, {})
    at = sitting(world(2_000), LONG, bare, *many, taker=account(9, 10, {0: (1, -2_000)}))
    snapshot = at.book.freeze()
    since = ChainTime(1_000, NOW_S)
    found = DESK.under_care(at, snapshot, {key(9): "", key(30): ""}, {key(5): since, key(30): since})
    assert found[:2] == [key(30), key(5)]
    seen = set[bytes]()
    for block in range(0, 2 * ROUND, 2):
        turn = DESK.under_care(replace(at, at=ChainTime(block, 0)), snapshot, {}, {})
        assert len(turn) <= 3
        seen.update(turn)
    assert seen == {each.key for each in (LONG, *many)}


def test_the_feed_that_values_gas_must_be_one_of_the_markets() -> None:
    DESK.expect(MARKET, MARKET.feeds)
    with pytest.raises(ConfigError, match="DOGE/USD is not a feed of the deployment: BTC/USD, ETH/USD"):
        PerpDesk(WALLET, Params("DOGE/USD")).expect(MARKET, MARKET.feeds)
    with pytest.raises(ConfigError, match="the price source has no entry for BTC/USD"):
        DESK.expect(MARKET, {"ETH/USD"})


def test_gas_is_valued_by_the_fast_price_else_by_the_index() -> None:
    assert sitting(world(2_000), fast=1_900).means.native_price_wad == 1_900 * WAD
    assert sitting(world(2_000)).means.native_price_wad == 2_000 * WAD
    with pytest.raises(ChainFault, match="ETH/USD has no price"):
        sitting(world(replace(view(2_000), index_wad=0)))


def test_nothing_is_decided_without_the_keepers_own_account() -> None:
    assert DESK.own == (key(9),)
    with pytest.raises(ChainFault, match="own account cannot be read"):
        sitting(world(2_000), taker=LONG)


def test_a_wallet_without_a_deposit_lacks_one() -> None:
    assert DESK.calls(MARKET) == []
    assert DESK.lacking(book_of(RICH), None) == []
    for book in (book_of(account(9, 0, {})), book_of(LONG)):
        assert DESK.lacking(book, None) == ["a deposit in Perpetual's Vault"]


# --- with borrowed margin ------------------------------------------------------------------------

BORROWING = PerpDesk(
    WALLET, Params("ETH/USD", plan=plan.Params(flash=FlashParams(MARKET.addresses[0], Lender.MORPHO)))
)


def test_with_borrowed_margin_no_deposit_is_lacking_and_none_is_used() -> None:
    poor = account(9, 0, {})
    assert BORROWING.lacking(book_of(poor), None) == []
    at = sitting(world(1_980), LONG, fast=1_980, taker=poor)
    found = BORROWING.judge(at, key(1), ALARM)
    assert isinstance(found, Judgement)
    assert isinstance(found.decision, tuple)
    assert {type(each.act) for each in found.decision} == {FlashTakeOver}
    assert found.agreed is not None
    assert found.left is at


def test_of_simulated_takeovers_one_is_picked_with_the_profit_that_it_brought() -> None:
    at = sitting(world(1_980), LONG, fast=1_980)
    found = BORROWING.judge(at, key(1), ALARM)
    assert isinstance(found, Judgement)
    assert isinstance(found.decision, tuple)
    refused = Refuse(Reason("simulation.reverted", "Unprofitable", "must not revert"))
    tried = [Tried(each, Call("0x", b""), refused) for each in found.decision]
    assert BORROWING.pick(at, tried) is tried[0]
    went = [
        *tried[:2],
        *(
            replace(each, result=encode(["uint256"], [dollars * 10**6]))
            for dollars, each in zip((9, 8), tried[2:], strict=True)
        ),
    ]
    picked = BORROWING.pick(at, went)
    assert picked.step.act == went[2].step.act
    assert picked.step.expected_profit_wad == 9 * WAD - 1_800_000 * 10**8 * 1_980
    little = [replace(tried[0], result=encode(["uint256"], [1]))]
    found_little = BORROWING.pick(at, little).result
    assert isinstance(found_little, Refuse)
    assert found_little.reason.rule == "takeover.unprofitable"


def test_a_later_sitting_has_the_account_that_an_earlier_one_left() -> None:
    left = judged(sitting(world(1_980), LONG, fast=1_980)).left
    later = DESK.carry(left, sitting(world(1_980), LONG, fast=1_970))
    assert later.means.taker == left.means.taker
    assert later.fast == sitting(world(1_980), LONG, fast=1_970).fast


def test_distances_are_asked_of_the_fast_mark_alone() -> None:
    seen = world(LAGGING)
    found = DESK.marks(MARKET, seen, said(1_900), NOW_S)
    assert found.value.tolist() == MARKET.marks(MARKET.fast(seen, said(1_900)), {}, NOW_S).value.tolist()
    # The trigger's own have the chain's mark, and the fall on top of the charge.
    assert (found.value[0], MARKET.marks(seen, said(1_900), NOW_S).value[0]) == (1_950, 2_100)


@pytest.mark.parametrize(
    ("seen", "fast", "health"),
    [
        (LAGGING, 1_900, 500 / 1_218.75),
        (replace(view(1_980), twap_wad=2_100 * WAD), 2_100, 800 / 1_237.5),
    ],
)
def test_an_owner_is_called_at_the_worse_of_both_clocks(seen: MarketView, fast: int, health: float) -> None:
    at = sitting(world(seen), LONG, fast=fast)
    found = DESK.call(at, key(1), 2 * WAD)
    assert found is not None
    assert found.health == pytest.approx(health)
    assert DESK.call(at, key(1), WAD // 10) is None
    assert DESK.call(at, key(2), 2 * WAD) is None


def test_how_far_the_clocks_are_apart_is_told_by_their_marks() -> None:
    apart = [DESK.divergence(MARKET, world(LAGGING), said(eth)) for eth in (1_900, 2_100, None)]
    assert apart == [pytest.approx(150 / 2_100), 0, 0]


# --- ready ---------------------------------------------------------------------------------------


def test_an_account_that_waits_for_the_fast_price_has_its_takeover_ready() -> None:
    waiting = sitting(world(replace(view(1_980), twap_wad=2_100 * WAD)), LONG, fast=2_100)
    (ready,) = DESK.ready(waiting, key(1), ALARM)
    assert isinstance(ready.act, TakeOver)
    assert ready.act.size_wad == 5 * WAD
    due = replace(ready, case_id="case")
    went, reverted = Tried(ready, Call("", b""), b""), Refuse(Reason("simulation.reverted", "", ""))
    assert DESK.vouches(went, due)
    assert not DESK.vouches(went, replace(due, act=replace(ready.act, size_wad=4 * WAD)))
    assert not DESK.vouches(replace(went, result=reverted), due)


def test_what_the_contract_sees_no_breach_of_is_not_ready() -> None:
    assert DESK.ready(sitting(world(LAGGING), LONG, fast=1_900), key(1), ALARM) == ()
    assert DESK.ready(sitting(world(1_980), LONG, fast=1_300), key(1), ALARM) == ()
    assert DESK.ready(sitting(world(1_980)), key(1), ALARM) == ()
    assert DESK.is_own(DESK.taker)
    assert DESK.ready(sitting(world(1_980)), DESK.taker, ALARM) == ()
