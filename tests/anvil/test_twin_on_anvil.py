"""The contracts against their twin: random books, random prices, every slice equal to the wei.

TWIN_SEEDS names other seeds, and more of them, than the one of every run: TWIN_SEEDS=1,2,3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from keeper.confirm.hybrid import confirm_alarm
from keeper.domain import (
    SCENARIOS,
    Account,
    Agree,
    Assessment,
    BuyCollateral,
    ChainTime,
    Confirm,
    Cure,
    Fact,
    Flag,
    HybridAct,
    Kind,
    Liquidate,
    Observation,
    OracleView,
    Phase,
    Refuse,
    Settle,
)
from keeper.errors import ChainFault
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.clearing import settle, worst_initial
from keeper.protocols.hybrid.liquidator import Slice, feeds_of, liquidate, prices_of, sight_of, view_of
from keeper.protocols.hybrid.math import UINT64_MAX
from keeper.protocols.hybrid.params import Listed, feed_bytes
from keeper.protocols.hybrid.portfolio import THIRDS, Setting, ceiling_wad, unit_value_wad
from keeper.protocols.hybrid.signing import Order, order_digest, report_digest, risk_arrays_digest
from keeper.risk.scenarios import PackedArray
from keeper.units import WAD, AccountKey, Wad
from tests.anvil.twin_world import (
    BASE,
    EXPIRY_S,
    FRESH,
    KEEPER,
    OWNER,
    RICH,
    TAKERS,
    World,
    account_of,
    address_of,
    insure,
    populate,
    run_some,
    welcome,
    world_of,
)

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEEDS = [int(seed) for seed in os.environ.get("TWIN_SEEDS", "2").split(",")]

REVERTS = {
    "array.silent": "ArraysSilent",
    "breaker.level": "BreakerTripped",
    "bucket.empty": "BucketEmpty",
    "oracle.stale": "StaleOracle",
    "slope.not_confirmed": "WrongState",
    "slope.not_breached": "NotBreached",
    "slope.step_cap": "StepCapReached",
    "slope.slice_outside": "SliceOutside",
    "slope.empty_slice": "EmptySlice",
    "taker.too_many_legs": "TooManyLegs",
    "taker.no_cash": "NegativeCash",
}

"""The contract's error for each of the twin's reasons."""
SLICES = (
    *("slices with a sale", "slices of several legs", "partial slices", "whole books", "empty slices"),
    *("slices with options", "slices on a standing clock", "slices of the early slope"),
    *("fees at the cap", "paid by the insurance", "cured", "cured by hand", "written off"),
    *("flagged with carry", "losses realised", "looked at, arrays silent", "looked at, slow only"),
    *("StaleOracle", "NotBreached", "StepCapReached", "SliceOutside", "TooManyLegs", "TakerBelowMargin"),
    *("ArraysSilent", "WrongState"),
)
CHANGES = ("BreakerTripped", "offers beyond the first", "slices of settled options", "settled")
"""What every run must have seen, or it would not show much."""
ARRAYS_EACH = 200
FAULTS = {
    "array.no_ref": "NoRefPrice(market={0}",
    "array.delta": "BadDelta(market={0}",
    "array.mark": "MarkOutOfBounds(market={0}",
    **{f"array.scenario_{s}": f"ScenarioOutOfBounds(market={{0}}, scenario={s}," for s in range(SCENARIOS)},
}
"""The contract's error for each bound of a risk array."""
TRACED = 8
"""Failures of one kind whose error is looked up; a trace takes as long as a slice."""


# --- the keeper's acts -----------------------------------------------------------------------------


def realise_losses(world: World) -> None:
    """Let every third owner close most of a losing leg, so that cash turns negative."""
    setting, trades = world.setting(world.now_s), []
    for account in world.rows(world.targets[::3]).values():
        for leg in account.legs[:1]:
            position = setting.position(leg)
            profit = math.leg_value_wad(position, world.fast[position.market.feed])
            if profit < 0 and account.phase is Phase.HEALTHY:
                trades.append(world.trade(account.key, leg.market, -leg.size_wad * 7 // 10))
    world.seen["losses realised"] += sum(not failed for _, failed in run_some(world, trades))


def assess_all(
    world: World, accounts: Mapping[AccountKey, Account], at: ChainTime
) -> dict[AccountKey, Assessment]:
    oracles = world.oracles()
    found = {key: world.market.assess(account, oracles, at) for key, account in accounts.items()}
    assert all(isinstance(each, Assessment) for each in found.values()), found
    return found  # type: ignore[return-value]


def flag_everybody(world: World) -> None:
    """Flag every healthy account: those succeed that the twin finds below the flag level, with its bond."""
    at = world.next_block(2)
    healthy = {
        key: account for key, account in world.rows(world.targets).items() if account.phase is Phase.HEALTHY
    }
    judged = assess_all(world, healthy, at)
    outcomes = world.act([Flag(key, 0) for key in judged], at)
    after = world.rows(list(judged))
    for (key, expected), outcome in zip(judged.items(), outcomes, strict=True):
        judged_by = (expected.fast_fresh or expected.slow_only) and not expected.arrays_silent
        breached = expected.fast.breaches(expected.flag_level_wad)
        foreseen = judged_by and breached and expected.breaker_level < 2
        assert foreseen == (not isinstance(outcome, str)), (expected, outcome)
        if isinstance(outcome, str):
            continue
        world.seen["flagged"] += 1
        args = next(fact.args for fact in outcome if fact.act == "Flagged")
        assert args["bond_wad"] == expected.bond_wad
        assert args["equity_wad"] == expected.fast.equity_wad
        assert args["requirement_wad"] == expected.fast.requirement_wad
        assert after[key].flag.tau_s == expected.tau_s
        world.seen["flagged with carry"] += expected.tau_s > 0


def confirm_everybody(world: World) -> None:
    """Confirm every flagged account: those succeed that the confirmation room agrees to."""
    at = world.next_block(3)
    flagged = {
        key: account for key, account in world.rows(world.targets).items() if account.phase is Phase.FLAGGED
    }
    judged = assess_all(world, flagged, at)
    oracles = world.oracles()
    outcomes = world.act([Confirm(key) for key in judged], at)
    after = world.rows(list(judged))
    for (key, expected), outcome in zip(judged.items(), outcomes, strict=True):
        agreed = isinstance(confirm_alarm(expected, oracles), Agree)
        assert agreed == (not isinstance(outcome, str)), (outcome, expected)
        if isinstance(outcome, str):
            continue
        world.seen["confirmed"] += 1
        args = next(fact.args for fact in outcome if fact.act == "Confirmed")
        assert args["reward_wad"] == expected.reward_wad
        assert args["equity_wad"] == expected.execution.equity_wad
        assert args["requirement_wad"] == expected.execution.requirement_wad
        account = after[key]
        assert account.flag.tau_s == expected.tau_s
        slope = world.rules.slopes[account.flag.slope]
        cap_wad = math.fee_cap(slope, expected.execution) if expected.execution.equity_wad > 0 else UINT64_MAX
        assert account.flag.fee_cap_wad == cap_wad
        assert account.flag.slope == expected.slope
        assert account.cash_wad == expected.account.cash_wad - expected.reward_wad


def slice_everybody(world: World, after_s: int) -> None:
    """Send one slice for every account in care, several in one block, and compare all with the twin.

    The block ends with the first debt that the insurance cannot pay: who bears it then is beyond the twin.
    """
    at = world.next_block(after_s)
    rows = world.rows([*world.targets, *TAKERS])
    oracles = world.oracles()
    own = {key: world.drawable_by(key) for key in world.targets}
    unforeseen = False
    acts: list[HybridAct] = []
    expected: list[Slice | str] = []
    for key in world.targets:
        account = rows[key]
        if account.phase is not Phase.CONFIRMED and world.dice.random() < 0.98:
            continue
        taker = world.dice.choice(world.takers)
        most = world.dice.choice([WAD, WAD, world.dice.randrange(WAD // 3), world.dice.randrange(1, 10**15)])
        acts.append(Liquidate(key, taker, account.flag.tranche_nonce, at.timestamp_s, 0, most, 0))
        drawable = min(own[key], oracles.world.drawable_wad)
        mine = replace(oracles, world=replace(oracles.world, drawable_wad=drawable))
        foreseen = liquidate(account, rows[taker], mine, at, world.rules, max_fraction_wad=most)
        if isinstance(foreseen, Refuse):
            expected.append(REVERTS[foreseen.reason.rule])
        elif foreseen.taker_margin.breaches():
            expected.append("TakerBelowMargin")
        else:
            check_preview(world, account, rows[taker], mine, at, most, foreseen)
            expected.append(foreseen)
            rows |= {key: foreseen.account, taker: foreseen.taker}
            left = oracles.world.drawable_wad - drawable + foreseen.oracles.world.drawable_wad
            oracles = replace(foreseen.oracles, world=replace(foreseen.oracles.world, drawable_wad=left))
            if foreseen.bad_debt_wad > foreseen.covered_wad:
                unforeseen = True
                break
    outcomes = world.act(acts, at)
    for outcome, told in zip(outcomes, expected, strict=True):
        compare(world, outcome, told)
    if unforeseen:
        world.seen["socialised"] += 1
        return
    assert world.rows(list(rows)) == rows
    found = world.oracles()
    assert found.world.insurance_wad == oracles.world.insurance_wad
    assert found.world.drawable_wad == oracles.world.drawable_wad
    assert found.buckets == oracles.buckets


def wait(world: World, rounds: int) -> None:
    """Let the active clocks run: each poke counts up to half a minute."""
    for _ in range(rounds):
        world.post_prices(world.dice.choice([4, 31, 40]))
        rows = world.rows(world.targets)
        poked = [
            world.deployed.tx("Liquidator", "poke", world.protocol.liquidator, key)
            for key, account in rows.items()
            if account.phase in {Phase.FLAGGED, Phase.CONFIRMED}
        ]
        world.run(poked)
    world.post_prices(world.dice.choice([4, 12, 31, 300]))


def compare(world: World, outcome: list[Fact] | str, foreseen: Slice | str) -> None:
    """Compare one transaction with the twin: the events of a slice, or the error."""
    if isinstance(outcome, str) or isinstance(foreseen, str):
        assert isinstance(outcome, str), (foreseen, outcome)
        assert isinstance(foreseen, str), (foreseen, world.node.reverts([outcome]))
        if world.seen[foreseen] < TRACED:
            assert world.error(outcome) == foreseen
        world.seen[foreseen] += 1
        return
    by_act = {fact.act: fact.args for fact in outcome}
    tranche = by_act["Tranche"]
    assert tranche["fraction_wad"] == foreseen.fraction_wad
    assert tranche["q_wad"] == foreseen.q_wad
    assert tranche["kappa_wad"] == foreseen.kappa_wad
    assert tranche["notional_wad"] == foreseen.fee.notional_wad
    assert tranche["fee_wad"] == foreseen.fee.whole_wad
    before, after = foreseen.before, foreseen.after
    assert (tranche["equity_before_wad"], tranche["requirement_before_wad"]) == (
        before.equity_wad,
        before.requirement_wad,
    )
    assert (tranche["equity_after_wad"], tranche["requirement_after_wad"]) == (
        after.equity_wad,
        after.requirement_wad,
    )
    if "Poked" in by_act:
        assert by_act["Poked"]["tau_s"] == foreseen.account.flag.tau_s
    else:
        world.seen["slices on a standing clock"] += 1
    sold = [
        (fact.args["amount_wad"], fact.args["paid_wad"]) for fact in outcome if fact.act == "CollateralSold"
    ]
    assert sold == [(sale.amount_wad, sale.paid_wad) for sale in foreseen.sales]
    assert by_act.get("InsurancePaid", {"amount_wad": 0})["amount_wad"] == foreseen.fee.from_insurance_wad
    assert by_act.get("BadDebt", {"amount_wad": 0})["amount_wad"] == foreseen.bad_debt_wad
    world.seen.update(
        {
            "slices": 1,
            "slices with a sale": bool(sold),
            "sales": len(sold),
            "slices with options": any(move.market in world.rules.options for move in foreseen.moves),
            "offers beyond the first": foreseen.fee.from_insurance_wad > foreseen.fee.notional_wad // 200 + 1,
            "slices of settled options": any(
                move.market in foreseen.oracles.settlements for move in foreseen.moves
            ),
            "slices of the early slope": foreseen.account.flag.slope == 1,
            "slices of several legs": len(foreseen.moves) > 1,
            "partial slices": 0 < foreseen.fraction_wad < WAD,
            "empty slices": foreseen.fraction_wad == 0,
            "whole books": foreseen.fraction_wad == WAD,
            "fees at the cap": 0 < foreseen.kappa_wad == foreseen.account.flag.fee_cap_wad,
            "paid by the insurance": foreseen.fee.from_insurance_wad > 0,
            "cured": foreseen.account.phase is Phase.HEALTHY,
            "written off": foreseen.account.phase is Phase.CLOSED,
        }
    )


def check_preview(
    world: World,
    account: Account,
    taker: Account,
    oracles: OracleView,
    at: ChainTime,
    most: Wad,
    foreseen: Slice,
) -> None:
    """Hold the market's preview and assessment against the slice that the chain is held against."""
    target = world.market.assess(account, oracles, at)
    assert isinstance(target, Assessment)
    preview = world.market.preview(target, taker, oracles, most)
    assert not isinstance(preview, Refuse)
    assert preview.taker_passes
    assert preview.taker_after == foreseen.taker
    assert (target.q_wad, target.fee_wad) == (foreseen.q_wad, foreseen.kappa_wad)
    assert target.execution == foreseen.before


def cure_everybody(world: World) -> None:
    """Cure every account in care: those succeed that the twin calls curable."""
    at = world.next_block(1)
    rows = world.rows(world.targets)
    in_care = {key: row for key, row in rows.items() if row.phase in {Phase.FLAGGED, Phase.CONFIRMED}}
    judged = assess_all(world, in_care, at)
    outcomes = world.act([Cure(key) for key in judged], at)
    for expected, outcome in zip(judged.values(), outcomes, strict=True):
        assert (not isinstance(outcome, str)) == expected.curable, (outcome, expected)
        world.seen["cured by hand"] += expected.curable


def compare_views(world: World) -> None:
    """Compare the contracts' own views with the twin at the newest block: margin, terms, execution price."""
    rows, oracles = world.rows([*world.targets, *TAKERS]), world.oracles()
    liquidator, clearing = world.protocol.liquidator, world.protocol.clearing
    setting = world.setting(world.now_s)
    for key, account in rows.items():
        slope, feeds = setting.terms.slope_of(account), feeds_of(account, world.rules)
        compare_look(world, account, setting, oracles)
        if not sight_of(account, oracles, setting).fresh:
            continue
        prices = prices_of(feeds, oracles, 0, world.now_s)
        worst = worst_initial(account, prices.fast, prices.slow, setting, slope.beta_wad)
        told = world.view("Clearing", clearing, "meetsInitialMargin", key)
        assert told == (
            not worst.breaches(),
            (worst.equity_wad, worst.requirement_wad, worst.notional_wad),
        )
        confirmed, flag = account.phase is Phase.CONFIRMED, account.flag
        since = flag.tau_s - flag.tau_at_confirm_s if confirmed else 0
        band = math.band_wad(slope, since)
        execution = prices_of(feeds, oracles, band, world.now_s).execution
        cap = math.fee_cap(slope, math.maintenance(account, execution, setting))
        fee = math.fee(slope, since, min(cap, flag.fee_cap_wad) if confirmed else cap)
        assert world.view("Liquidator", liquidator, "reduceTerms", key) == (fee, band)


def compare_look(world: World, account: Account, setting: Setting, oracles: OracleView) -> None:
    """Compare the engine's whole view of an account with the twin's."""
    band = world.dice.choice([WAD // 100, WAD // 10])
    (told,) = world.view("MarginEngine", world.protocol.engine, "look", account.key, band)
    sight = sight_of(account, oracles, setting)
    prices = prices_of(feeds_of(account, world.rules), oracles, band, world.now_s)
    view = view_of(account, prices, setting)
    assert told[7:10] == tuple(
        (m.equity_wad, m.requirement_wad, m.notional_wad) for m in (view.fast, view.slow, view.execution)
    )
    assert told[10:] == (sight.running, sight.fast, sight.slow, sight.slow_only, sight.arrays_silent)
    positions = setting.positions(account)
    assert told[6] == tuple(unit_value_wad(each, prices.execution[each.market.feed]) for each in positions)
    world.seen["looked at"] += 1
    world.seen["looked at, arrays silent"] += sight.arrays_silent
    world.seen["looked at, slow only"] += sight.slow_only


def buy_from_debtors(world: World) -> None:
    """Buy what is left of collateral where only debt stands against it."""
    rows = world.rows(world.targets)
    debtors = [account for account in rows.values() if account.debt_since_s and account.holdings]
    acts = [
        BuyCollateral(account.key, RICH, account.holdings[0].collateral, -account.cash_wad)
        for account in debtors
    ]
    outcomes = world.act(acts, world.next_block(1))
    after = world.rows([account.key for account in debtors])
    for account, outcome in zip(debtors, outcomes, strict=True):
        assert not isinstance(outcome, str), world.error(outcome)
        (sold,) = (fact.args for fact in outcome if fact.act == "CollateralSold")
        written_off = sum(fact.args["amount_wad"] for fact in outcome if fact.act == "BadDebt")
        paid = after[account.key].cash_wad - account.cash_wad - written_off
        assert sold["paid_wad"] == paid
        world.seen["bought from debtors"] += 1


# --- stories ---------------------------------------------------------------------------------------


def live_through(world: World, shock: float) -> None:
    """Open new accounts, let a shock hit everybody, and follow the alarms to their ends."""
    world.speak()
    welcome(world)
    world.drift(shock)
    world.post_prices(20)
    compare_views(world)
    realise_losses(world)
    raise_alarms(world)
    for round_number in range(7):
        slice_everybody(world, world.dice.choice([1, 2, 5, 9]))
        slice_everybody(world, world.dice.choice([1, 3, 9]))
        world.drift(0.08 if round_number == 4 else 0.025)
        wait(world, round_number)
    cure_everybody(world)
    buy_from_debtors(world)


def raise_alarms(world: World) -> None:
    """Flag and confirm whatever is in breach, with reports in between."""
    flag_everybody(world)
    world.drift(0.01)
    world.post_prices(20)
    confirm_everybody(world)


def fall_silent(world: World) -> None:
    """Let risk arrays and then fast prices fall silent, and at last be lost, and see what still goes."""
    world.arrays_silent = {"BTC/USD"}
    world.post_prices(4)
    pass_time(world, 3)
    compare_views(world)
    flag_everybody(world)
    slice_everybody(world, 1)
    world.fast_silent = {"ETH/USD", "SOL/USD"}
    world.drift(0.05)
    pass_time(world, 3)
    compare_views(world)
    flag_everybody(world)
    world.post_prices(130)
    confirm_everybody(world)
    slice_everybody(world, 1)
    slice_everybody(world, 9)
    pass_time(world, 16)
    compare_views(world)
    flag_everybody(world)
    world.post_prices(130)
    confirm_everybody(world)
    slice_everybody(world, 1)
    cure_everybody(world)


def pass_time(world: World, rounds: int) -> None:
    for _ in range(rounds):
        world.post_prices(290)


def raise_requirements(world: World) -> None:
    """Raise every requirement along ramps of a day, and stop on their way."""
    instruments, terms = world.protocol.instruments, world.rules.at(world.now_s)
    margins = [
        (
            feed_bytes(feed),
            risk.mmr_wad + WAD // 77,
            risk.imr_wad + WAD // 33,
            risk.short_min_wad + 12345,
            86_400,
        )
        for feed, risk in terms.risks.items()
    ]
    haircuts = [
        (each.collateral, each.h_mm_wad * 9 // 10, each.h_im_wad * 8 // 10, 90_001)
        for each in terms.collaterals.values()
    ]
    build = world.deployed.tx
    world.run([build("Instruments", "setMargins", instruments, *each) for each in margins])
    world.run([build("Instruments", "setHaircuts", instruments, *each) for each in haircuts])
    world.refresh()
    world.now_s += 20_000


def ruin(world: World) -> None:
    """Let accounts lose all, raise the breaker, and wait for what the insurance offers to grow."""
    world.speak()
    welcome(world)
    welcome(world, bare=True)
    world.drift(0.4)
    world.post_prices(30)
    raise_alarms(world)
    world.run([world.deployed.give_credit("USDC", 10**7 * WAD, address_of(KEEPER))])
    world.run([insure(world, 10**6 * WAD)])
    wait(world, 4)
    slice_everybody(world, 2)
    world.drift(0.3)
    world.post_prices(30)
    raise_alarms(world)
    for level in (2, 3):
        world.run([world.deployed.tx("Breaker", "raise", world.protocol.breaker, level)])
        world.post_prices(20)
        flag_everybody(world)
        slice_everybody(world, 2)
        slice_everybody(world, 9)
    pass_time(world, 13)
    slice_everybody(world, 2)
    slice_everybody(world, 5)
    for _ in range(5):
        world.now_s += 20_000
        world.post_prices(20)
    assert world.oracles().world.breaker_level == 0
    slice_everybody(world, 2)
    slice_everybody(world, 9)
    cure_everybody(world)


def expire(world: World) -> None:
    """Open books before an expiry, slice them after it while nobody has settled them, and settle them."""
    world.now_s = EXPIRY_S - 3_000
    world.speak()
    world.takers = FRESH
    expiring = [number for number, each in world.rules.markets.items() if each.expiry_s == EXPIRY_S]
    for _ in range(2):
        welcome(world, pool=[1, 2, *expiring])
    world.now_s = EXPIRY_S - 30
    world.drift(0.05)
    world.agree()
    world.post_prices(60)
    arrays = world.protocol.risk_arrays
    world.run([world.tx(codec.settle_expiry_call(arrays, feed, EXPIRY_S)) for feed in ("BTC/USD", "ETH/USD")])
    assert set(world.oracles().settlements) == set(expiring)
    compare_views(world)
    for _ in range(8):
        if world.seen["slices of settled options"] < 2:
            world.drift(0.2)
            world.post_prices(20)
            raise_alarms(world)
            slice_everybody(world, 2)
            slice_everybody(world, 9)
    settle_everybody(world)
    slice_everybody(world, 2)


def settle_everybody(world: World) -> None:
    """Settle every leg that is due, takers' too."""
    at = world.next_block(3)
    setting, rows = world.setting(at.timestamp_s), world.rows([*world.targets, *TAKERS])
    due = [
        (key, leg.market)
        for key, row in rows.items()
        for leg in row.legs
        if leg.market in setting.settlements
    ]
    outcomes = world.act([Settle(key, market) for key, market in due], at)
    assert not any(isinstance(each, str) for each in outcomes)
    for key, market in due:
        rows[key] = settle(rows[key], market, setting)
    assert world.rows(list(rows)) == rows
    world.seen["settled"] += len(due)


def saw(world: World, kinds: Sequence[str]) -> bool:
    return all(world.seen[kind] for kind in kinds)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_slice_on_chain_equals_the_twin_to_the_wei(seed: int) -> None:
    with world_of(seed) as world:
        populate(world)
        for shock in (0.1, 0.15, 0.2) * 4:
            if world.seen["slices"] < 60 or not saw(world, SLICES):
                live_through(world, shock)
                fall_silent(world)
        assert saw(world, SLICES), sorted(world.seen.items())


@pytest.mark.parametrize("seed", SEEDS)
def test_it_equals_the_twin_on_ramps_behind_the_breaker_and_past_an_expiry(seed: int) -> None:
    with world_of(seed) as world:
        populate(world)
        raise_requirements(world)
        live_through(world, 0.15)
        ruin(world)
        expire(world)
        assert saw(world, CHANGES), sorted(world.seen.items())


# --- what is signed --------------------------------------------------------------------------------


def test_a_risk_array_is_refused_for_the_reason_that_the_twin_finds_and_else_accepted() -> None:
    with world_of(3) as world:
        populate(world)
        # No stored array is as new as these.
        world.now_s += 30
        world.node.mine(world.now_s)
        for option in [world.rules.markets[number] for number in world.rules.options] * ARRAYS_EACH:
            array = random_array(world, option)
            fault = world.market.broken_bound(option.market, array.view, world.now_s)
            told = refused(world, array)
            expected = FAULTS[fault.rule].format(option.market) if fault else ""
            assert told.startswith(expected), (told, fault, array)
            assert bool(told) == bool(fault), (told, fault, array)
            world.seen[fault.rule if fault else "accepted"] += 1
        assert saw(world, ("accepted", *FAULTS)), world.seen


def random_array(world: World, option: Listed) -> PackedArray:
    """Draw an array with values between their bounds, at them, and up to 3 units beyond."""
    dice, ref = world.dice, world.dice.randrange(1, 2 * BASE[option.feed] * 10**8)
    ref = dice.choice([ref] * 30 + [0])
    third_wad = ref * 10**10 * world.rules.at(world.now_s).risks[option.feed].mmr_wad // (3 * WAD)

    def value(price_wad: Wad) -> int:
        least, most = option.payoff_wad(price_wad) // 10**10, ceiling_wad(option, price_wad) // 10**10
        at_random = dice.randint(least, most)
        return dice.choice([at_random] * 8 + [max(0, least - dice.randrange(5)), most + dice.randrange(5)])

    mark = value(ref * 10**10)
    pnl = tuple(value(max(0, ref * 10**10 + third_wad * thirds)) - mark for thirds in THIRDS)
    delta = dice.choice([dice.randrange(10**9 + 1)] * 30 + [0, 10**9, 10**9 + 1, -1])
    delta = delta if option.kind is Kind.CALL else -delta
    return PackedArray(option.market, world.now_s, ref, mark, delta, pnl)


def refused(world: World, array: PackedArray) -> str:
    """Say with which error the chain refuses an array; nothing where it takes it."""
    try:
        world.ask(world.signed([array]))
    except ChainFault as fault:
        return codec.revert_name(bytes.fromhex(re.findall(r"'data': '0x([0-9a-f]+)'", str(fault))[0]))
    return ""


def test_digests_are_those_that_the_contracts_publish() -> None:
    with world_of(3) as world:
        populate(world)
        protocol, options = world.protocol, world.rules.options
        chain_id, until_s = protocol.chain_id, world.now_s + 60

        seen = Observation("ETH/USD", 1_234 * WAD + 5, 10, world.now_s, until_s)
        report = (feed_bytes(seen.feed), seen.price_wad, 10, seen.observed_at_s, seen.valid_until_s)
        told = world.view("FastOracle", protocol.fast_oracle, "reportDigest", *report)
        assert told == (report_digest(seen, fast_oracle=protocol.fast_oracle, chain_id=chain_id),)

        arrays = [world.packed(world.rules.markets[number]) for number in options]
        post = ([array.fields for array in arrays], until_s)
        told = world.view("RiskArrays", protocol.risk_arrays, "digest", *post)
        digest = risk_arrays_digest(arrays, until_s, risk_arrays=protocol.risk_arrays, chain_id=chain_id)
        assert told == (digest,)

        order = Order(account_of(OWNER, 7), 3, -5 * WAD, 7 * WAD, 2**200, 1_600_000_100)
        told = world.view("Clearing", protocol.clearing, "orderDigest", order.fields)
        assert told == (order_digest(order, clearing=protocol.clearing, chain_id=chain_id),)
