"""Planning: which act, how much of it, and whether it is worth its gas.

Pure functions of an assessment, the keeper's means and a market's exact mathematics. Each returns a
``Step`` worth sending, a ``Wait`` with the block to ask again at, or a ``Refuse`` with the evidence and the
bound. An act that takes anything from an account needs the ``Agree`` of the confirmation before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from keeper.domain import (
    Account,
    Act,
    Agree,
    Assessment,
    BuyCollateral,
    Clear,
    Confirm,
    Cure,
    Expire,
    Flag,
    Liquidate,
    OracleView,
    Phase,
    Poke,
    Reason,
    Record,
    Refuse,
    Seen,
    Settle,
    Step,
    Wait,
    WriteOff,
)
from keeper.plan import bounds
from keeper.plan.bounds import Bound
from keeper.plan.common import Decision, Gas, step
from keeper.plan.economics import Prudence, is_endangered, loss_wad, weigh
from keeper.ports import SlicePreview, SlopeMarket
from keeper.units import WAD, FeedId, Wad, Wei, mul_div_down

BISECTIONS = 12
"""Steps of the search for the slice that the keeper's margin bears: to 1/4096 of the largest."""

PASSING = ("taker.no_margin", "bucket.empty", "slope.step_cap")
"""Rules by which the contract would refuse a slice now, and need not a block later."""


@dataclass(frozen=True, slots=True)
class Params:
    """What makes an act worth sending. Quote amounts in WAD.

    Gas by leg and collateral of the account: rounded fits to ``contracts/snapshots/episode.json`` (1 to 8
    legs) and to the receipts of a demo run (490 acts on accounts of 1 to 4 legs and collaterals).
    """

    min_profit_wad: Wad = 0
    """Smallest expected fee less gas of a slice, and of an alarm with all that should follow it."""
    upkeep: bool = True
    """Whether to do what costs gas and earns nothing: end episodes (cure, clear, expire, write off), keep
    the clocks of others going, settle options."""
    poke_after_s: int = 30
    """How long a clock is left alone: the contract counts no more than so much at a time."""
    validity_blocks: int = 3
    """A slice not included by then is refused by the contract itself."""
    block_time_s: int = 12
    min_fee_of_gas_wad: Wad = WAD // 2
    """The least fee, as a part of the slice's gas cost, for which it may still run when prices have moved:
    a revert would cost about the rest."""
    free_margin_share_wad: Wad = 9 * WAD // 10
    """How much of a slice that the keeper's own margin bounds is asked for: prices move until inclusion."""
    prudence: Prudence = field(default_factory=Prudence)
    gas_flag: Gas = field(default_factory=lambda: Gas(230_000, 60_000))
    gas_confirm: Gas = field(default_factory=lambda: Gas(175_000, 65_000))
    gas_slice: Gas = field(default_factory=lambda: Gas(290_000, 185_000))
    gas_per_valued: int = 40_000
    """More gas of a slice for each leg and collateral that it values and does not move: those that the taker
    alone has, and the account's collateral unless it is sold for debt."""
    gas_upkeep: Gas = field(default_factory=lambda: Gas(150_000, 50_000))
    gas_bundle: Gas = field(default_factory=lambda: Gas(20_000, 11_000))
    """More gas of an act for each bundle that it posts, by the reports in it."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the keeper has to act with at this head."""

    taker: Account
    """The keeper's margin account, with what it takes over in this block already added."""
    credit_wad: Wad
    """Credit for bonds, less what the steps of this block take."""
    gas_price_wei: Wei
    native_price_wad: Wad
    """Quote per unit of the native currency."""
    gas_posting: int = 0
    """What posting the prices that an act rests on takes besides."""
    record: Record = field(default_factory=Record)
    """With what the steps of this block take already added."""
    held_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What the taker's positions come to on each feed; asked for where a depth is known."""
    pace_wad: Wad = WAD
    """The pace of this account, that of the whole keeper included."""

    def gas_cost_wad(self, gas: int) -> Wad:
        """Return the cost of ``gas`` in quote, rounded up."""
        return -(-gas * self.gas_price_wei * self.native_price_wad // WAD)


@dataclass(frozen=True, slots=True)
class Slice:
    """A planned slice: the step, and what it does to the account and to the taker."""

    step: Step
    preview: SlicePreview


def plan_alarm(
    case_id: str, case: Assessment, means: Means, params: Params, *, closed: Seen | None = None
) -> Decision:
    """Plan a flag: the on-chain fast price shows the breach, and the episode should pay for its gas.

    ``closed`` is the last slice that the keeper took: an account that it has just cured is left at rest.
    """
    bar = _alarm_bar(case, params) or params.prudence.rest.wait(closed, case.health_wad, case.at)
    if bar is not None:
        return bar
    if not case.fast.breaches(case.flag_level_wad):
        found = f"E {case.fast.equity_wad / WAD:.2f} against M {case.fast.requirement_wad / WAD:.2f} on chain"
        return _wait(case, "alarm.not_on_chain", found, f"E < {case.flag_level_wad / WAD:.4f} M")
    if case.bond_wad > means.credit_wad:
        found = f"credit {means.credit_wad / WAD:.2f}"
        return Refuse(Reason("alarm.no_credit", found, f"bond {case.bond_wad / WAD:.2f}"))
    gas = params.gas_flag.typical(_items(case)) + means.gas_posting
    all_gas = gas + params.gas_confirm.typical(_items(case)) + _slice_gas(case, means, params)
    first = {feed: mul_div_down(case.closeable_wad, wad, WAD) for feed, wad in case.exposures}
    economics = weigh(
        "flag",
        means,
        income_wad=case.reward_wad + _first_fee(case),
        exit_wad=bounds.taken(first, means.held_wad, params.prudence.depth),
        gas=all_gas,
    )
    endangered = is_endangered(case.execution.equity_wad, dict(case.exposures), params.prudence)
    loses_wad = loss_wad(
        "alarm.unprofitable", economics, params.prudence, params.min_profit_wad, endangered=endangered
    )
    if isinstance(loses_wad, Refuse):
        return loses_wad
    profit = economics.profit_wad
    planned = _step(case_id, case, Flag(case.account.key, case.bond_wad), params, gas=gas, profit_wad=profit)
    # What the slices lose they book themselves.
    return replace(planned, economics=economics, loss_wad=min(loses_wad, means.gas_cost_wad(gas)))


def prepare_alarm(case_id: str, case: Assessment, means: Means, params: Params) -> Decision:
    """Plan the flag that a breach would call for: nothing but the breach is missing.

    Whether it pays is asked when there is one.
    """
    bar = _alarm_bar(case, params)
    if bar is not None:
        return bar
    gas = params.gas_flag.typical(_items(case))
    profit = -means.gas_cost_wad(gas)
    return _step(case_id, case, Flag(case.account.key, case.bond_wad), params, gas=gas, profit_wad=profit)


def plan_confirm(case_id: str, case: Assessment, agreed: Agree, means: Means, params: Params) -> Decision:
    """Plan the confirmation that both clocks agree on; the bond comes back with it, so it is always due."""
    del agreed
    gas = params.gas_confirm.typical(_items(case)) + means.gas_posting
    profit = case.reward_wad - means.gas_cost_wad(gas)
    return _step(case_id, case, Confirm(case.account.key), params, gas=gas, profit_wad=profit)


def plan_slice(
    case_id: str,
    case: Assessment,
    agreed: Agree,
    *,
    market: SlopeMarket,
    oracles: OracleView,
    means: Means,
    params: Params,
) -> Slice | Decision:
    """Plan the largest slice that the slope, the step window and the keeper's own free margin allow.

    Waits where window or bucket are full, and where the execution price is worse for the taker than the fast
    one; refuses what does not pay for its gas. The figures are the contract's own, to the wei, for the block
    ``case.at``. Where the insurance's offer does not pay yet, the act may be a ``Poke`` by which it rises.
    """
    full = _no_room(case)
    if full is not None:
        return full
    taker = means.taker
    if taker.phase is not Phase.HEALTHY:
        return Refuse(Reason("taker.not_healthy", f"the keeper's account is {taker.phase}", "healthy"))
    largest = _largest(case, market, oracles, means, params)
    if isinstance(largest, Wait | Refuse):
        is_passing = isinstance(largest, Refuse) and largest.reason.rule in PASSING
        return Wait(case.at.block + 1, largest.reason) if is_passing else largest
    preview, asked, bound_by = largest
    if preview.taker_mark_wad < 0:
        found = f"the slice is worth {-preview.taker_mark_wad / WAD:.4f} less at p_F than it costs at p_L"
        return _wait(case, "slope.price_worse_than_fast", found, "p_L no worse than p_F for the taker")
    if harm := bounds.harms(preview.before, preview.after):
        return Refuse(harm)
    gas = _slice_gas(case, means, params)
    exit_wad = bounds.taken(preview.takes, means.held_wad, params.prudence.depth)
    economics = weigh("liquidate", means, income_wad=preview.taker_fee_wad, exit_wad=exit_wad, gas=gas)
    endangered = is_endangered(case.execution.equity_wad, dict(case.exposures), params.prudence)
    loses_wad = loss_wad(
        "slope.unprofitable", economics, params.prudence, params.min_profit_wad, endangered=endangered
    )
    if isinstance(loses_wad, Refuse) and means.pace_wad < WAD:
        # Where the pace leaves too little to pay, all that is permitted goes.
        whole = replace(means, pace_wad=WAD)
        return plan_slice(case_id, case, agreed, market=market, oracles=oracles, means=whole, params=params)
    if isinstance(loses_wad, Refuse):
        return _raise_offer(case_id, case, gas=gas, means=means, params=params) or loses_wad
    act = Liquidate(
        account=case.account.key,
        taker=taker.key,
        tranche_nonce=case.account.flag.tranche_nonce,
        deadline_s=case.at.timestamp_s + params.validity_blocks * params.block_time_s,
        min_fraction_wad=0,
        max_fraction_wad=asked,
        min_fee_wad=0
        if loses_wad
        else min(
            preview.taker_fee_wad, mul_div_down(means.gas_cost_wad(gas), params.min_fee_of_gas_wad, WAD)
        ),
    )
    profit_wad, notional_wad = economics.profit_wad, preview.notional_wad
    planned = _step(case_id, case, act, params, gas=gas, profit_wad=profit_wad, notional_wad=notional_wad)
    planned = replace(
        planned,
        takes=tuple(preview.takes.items()),
        bounds=tuple(each.reason for each in bound_by),
        economics=economics,
        loss_wad=loses_wad,
        ends_at_wad=case.health_wad,
    )
    return Slice(planned, preview)


def plan_upkeep(
    case_id: str, case: Assessment, *, contradicted: bool, means: Means, params: Params
) -> Step | None:
    """Plan what ends something, where it is due: cure, clear, expire, or write-off.

    ``contradicted`` says that both oracles show the alarm unfounded. An account is not held reduce-only on
    an alarm that the keeper itself knows to be false, even where the keeper's own bond pays for it.
    """
    act = _upkeep_act(case, contradicted=contradicted) if params.upkeep else None
    if act is None:
        return None
    gas = params.gas_upkeep.typical(_items(case)) + means.gas_posting
    return _step(case_id, case, act, params, gas=gas, profit_wad=-means.gas_cost_wad(gas))


def plan_settlement(case_id: str, case: Assessment, means: Means, params: Params) -> Step | None:
    """Plan to turn an expired option into cash: its worth is fixed, so that all else goes first."""
    if not params.upkeep or not case.settlable:
        return None
    gas = params.gas_upkeep.typical(_items(case))
    act = Settle(case.account.key, case.settlable[0])
    return _step(case_id, case, act, params, gas=gas, profit_wad=-means.gas_cost_wad(gas))


def plan_clock(case_id: str, case: Assessment, means: Means, params: Params) -> Step | None:
    """Plan a poke for a confirmed account that no slice may be taken of yet, though it is not safe either.

    Only an act advances its clock, and by so little that without a poke the slope would stand for ever. It
    has to be worth something: the fee on the whole book, the most that slices may bring, pays for a poke.
    """
    account = case.account
    runs = case.fresh and not case.arrays_silent and case.breaker_level < 2
    decays = account.phase is Phase.CONFIRMED and case.q_wad > case.least_q_wad and not case.curable
    if not (params.upkeep and runs and decays and _is_clock_due(case, params)):
        return None
    gas = params.gas_upkeep.typical(_items(case))
    cost = means.gas_cost_wad(gas)
    if mul_div_down(case.fee_wad, case.execution.notional_wad, WAD) < cost:
        return None
    return _step(case_id, case, Poke(account.key), params, gas=gas, profit_wad=-cost)


def plan_purchase(
    case_id: str, case: Assessment, *, market: SlopeMarket, oracles: OracleView, means: Means, params: Params
) -> Decision:
    """Plan to buy collateral from an account that has only debt besides it, once the discount pays for it.

    Half of the credit stays for bonds: alarms come first.
    """
    bought = market.purchase(case.account, oracles, case.at, means.credit_wad // 2)
    if isinstance(bought, Refuse):
        return bought
    gas = params.gas_upkeep.typical(_items(case))
    profit = bought.mark_wad - means.gas_cost_wad(gas)
    if bought.amount_wad == 0 or profit < params.min_profit_wad:
        found = f"worth {bought.mark_wad / WAD:.4f} more at p_F than it costs, {profit / WAD:.4f} after gas"
        return _wait(case, "purchase.unprofitable", found, f">= {params.min_profit_wad / WAD:.4f}")
    act = BuyCollateral(
        account=case.account.key,
        taker=means.taker.key,
        collateral=bought.collateral,
        max_quote_wad=bought.paid_wad,
        min_amount_wad=mul_div_down(bought.amount_wad, params.free_margin_share_wad, WAD),
    )
    return _step(case_id, case, act, params, gas=gas, profit_wad=profit)


def _upkeep_act(case: Assessment, *, contradicted: bool) -> Act | None:
    account = case.account
    only_debt = not account.legs and account.cash_wad < 0
    if only_debt and not account.holdings and account.phase is not Phase.CLOSED:
        return WriteOff(account.key)
    if account.phase not in {Phase.FLAGGED, Phase.CONFIRMED}:
        return None
    if account.phase is Phase.FLAGGED and contradicted:
        return Clear(account.key)
    if case.curable:
        return Cure(account.key)
    return Expire(account.key) if account.phase is Phase.FLAGGED and case.expirable else None


def _largest(
    case: Assessment, market: SlopeMarket, oracles: OracleView, means: Means, params: Params
) -> tuple[SlicePreview, Wad, tuple[Bound, ...]] | Wait | Refuse:
    """Find the largest slice within all bounds, what to ask for, and what kept it from being larger."""

    def preview(fraction_wad: Wad) -> SlicePreview | Refuse:
        return market.preview(case, means.taker, oracles, fraction_wad)

    whole = preview(WAD)
    if isinstance(whole, Refuse):
        return whole
    bound_by = _bounds(case, whole.fraction_wad, means, params)
    best, asked = whole, WAD
    if bound_by:
        within = _within(preview, bound_by[0], case.smallest_wad)
        if isinstance(within, Reason):
            return Wait(case.at.block + 1, within)
        best, asked = within
    if best.taker_passes:
        return best, asked, bound_by
    found = _borne(preview, best.fraction_wad, means, params)
    if isinstance(found, Refuse):
        return found
    cash = f"cash {means.taker.cash_wad / WAD:.2f}"
    margin = Bound(found[1], Reason("size.margin", f"the keeper's account has {cash}", "its initial margin"))
    return *found, (margin, *bound_by)


def _bounds(case: Assessment, permitted_wad: Wad, means: Means, params: Params) -> tuple[Bound, ...]:
    """Return what keeps a slice from being all that the contract permits, as fractions of the book."""
    found = bounds.of_market(
        dict(case.exposures),
        params.prudence.depth,
        moved_wad=means.record.moved_wad,
        held_wad=means.held_wad,
    )
    found += bounds.of_pace(means.pace_wad, permitted_wad, case.smallest_wad)
    return bounds.binding(found, permitted_wad)


def _within(
    preview: Callable[[Wad], SlicePreview | Refuse], bound: Bound, smallest_wad: Wad
) -> tuple[SlicePreview, Wad] | Reason:
    """Return the slice that a bound allows; where the contract would leave no dust behind, half of it."""
    for asked in (bound.part_wad, bound.part_wad // 2):
        found = preview(asked) if asked >= max(1, smallest_wad) else None
        if isinstance(found, SlicePreview):
            return found, asked
    return bound.reason


def _borne(
    preview: Callable[[Wad], SlicePreview | Refuse], most_wad: Wad, means: Means, params: Params
) -> tuple[SlicePreview, Wad] | Refuse:
    """Find the largest slice up to a fraction after which the taker still meets its initial margin."""
    low, high = 0, most_wad
    for _ in range(BISECTIONS):
        middle = (low + high) // 2
        tried = preview(middle)
        low, high = (middle, high) if not isinstance(tried, Refuse) and tried.taker_passes else (low, middle)
    asked = mul_div_down(low, params.free_margin_share_wad, WAD)
    best = preview(asked)
    if isinstance(best, Refuse) or not best.taker_passes or best.fraction_wad == 0:
        found = f"no slice leaves the keeper at initial margin, cash {means.taker.cash_wad / WAD:.2f}"
        return Refuse(Reason("taker.no_margin", found, "initial margin at both oracles"))
    return best, asked


def _raise_offer(case_id: str, case: Assessment, *, gas: int, means: Means, params: Params) -> Step | None:
    """Plan the poke by which the insurance comes to offer more, where the most that it may offer will pay.

    The first one has the contract note that nothing is left; from then on the offer rises with the account's
    clock, which only acts advance. The contract notes nothing for an account with collateral left, nor while
    the breaker is at level 2. What the insurance may pay for one account at most is not known here: an offer
    may end sooner. No poke costs more than it can raise the offer by, so that whoever takes it in the end has
    lost no more by waiting than the slice would have lost at first.
    """
    account = case.account
    if account.holdings or case.breaker_level > 1 or case.incentive_wad == 0:
        return None
    if account.flag.insolvent_tau_s and not (params.upkeep and case.fresh and _is_clock_due(case, params)):
        return None
    own_gas = params.gas_upkeep.typical(_items(case))
    cost = means.gas_cost_wad(own_gas)
    pays = case.incentive_most_wad - means.gas_cost_wad(gas) - cost >= params.min_profit_wad
    if not pays or cost > case.incentive_step_wad or case.incentive_wad >= case.incentive_most_wad:
        return None
    return _step(case_id, case, Poke(account.key), params, gas=own_gas, profit_wad=-cost)


def _is_clock_due(case: Assessment, params: Params) -> bool:
    """Tell whether a poke now would count for as much as one can."""
    return case.at.timestamp_s - case.account.flag.last_poke_s >= params.poke_after_s


def _slice_gas(case: Assessment, means: Means, params: Params) -> int:
    """Count each leg of the account once for both: the taker has it afterwards."""
    account, taker = case.account, means.taker
    sold = len(account.holdings) if account.cash_wad < 0 else 0
    more = {leg.market for leg in taker.legs} - {leg.market for leg in account.legs}
    valued = len(more) + len(taker.holdings) + len(account.holdings) - sold
    valuing = params.gas_slice.typical(len(account.legs) + sold) + params.gas_per_valued * valued
    return valuing + means.gas_posting


def _items(case: Assessment) -> int:
    """Count what an act has to value."""
    return len(case.account.legs) + len(case.account.holdings)


def _alarm_bar(case: Assessment, params: Params) -> Wait | None:
    """Wait where the contract takes no flag now, whatever the account's margin."""
    earliest = case.earliest_alarm
    if case.at.timestamp_s < earliest.timestamp_s or case.at.block < earliest.block:
        blocks = -(-max(0, earliest.timestamp_s - case.at.timestamp_s) // params.block_time_s)
        found = f"block {case.at.block} at {case.at.timestamp_s} s"
        bound = f">= block {earliest.block} and {earliest.timestamp_s} s"
        return Wait(max(earliest.block, case.at.block + blocks), Reason("alarm.cool_off", found, bound))
    return _not_flaggable(case)


def _not_flaggable(case: Assessment) -> Wait | None:
    if case.breaker_level > 1:
        return _wait(case, "breaker.level", f"level {case.breaker_level}", "<= 1")
    if not (case.fast_fresh or case.slow_only):
        return _wait(case, "oracle.stale", "a fast price of the account is stale on chain", "fresh")
    if case.arrays_silent:
        return _wait(case, "array.silent", "a risk array of the account is too old", "renewed, or given up")
    return None


def _no_room(case: Assessment) -> Wait | None:
    if case.step_room_wad == 0:
        found = f"{case.account.flag.step_used_wad / WAD:.4f} of the book went in this window"
        return _wait(case, "slope.step_cap", found, "the window's cap")
    if case.bucket_room_wad == 0:
        found = f"slices have moved of {case.bucket_feed} what they may within a minute"
        return _wait(case, "bucket.empty", found, "room in the bucket")
    return None


def _first_fee(case: Assessment) -> Wad:
    """Estimate what the taker of the first slice earns; the flagger need not be the taker."""
    notional = mul_div_down(case.closeable_wad, case.execution.notional_wad, WAD)
    return mul_div_down(case.fee_wad, notional, WAD) * 8 // 10 + case.incentive_wad


def _step(
    case_id: str,
    case: Assessment,
    act: Act,
    params: Params,
    *,
    gas: int,
    profit_wad: Wad,
    notional_wad: Wad = 0,
) -> Step:
    return step(
        case_id,
        act,
        case.at,
        validity_blocks=params.validity_blocks,
        gas=gas,
        profit_wad=profit_wad,
        notional_wad=notional_wad,
    )


def _wait(case: Assessment, rule: str, evidence: str, bound: str) -> Wait:
    return Wait(case.at.block + 1, Reason(rule, evidence, bound))
