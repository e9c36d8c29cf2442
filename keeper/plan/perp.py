"""Planning takeovers of Perpetual: of which position, how much, and whether it is worth its gas.

Pure functions of the account, the keeper's own one, and the contract's exact mathematics. What is counted is
the reward, half of the penalty, less gas; what is taken over is inventory at the mark, and nothing is said of
what closing it in the pool would cost.

With borrowed margin it is closed in the same transaction. Then sizes are candidates: each is simulated, which
says what the pool gives, and ``chosen`` takes one by the profit that it brought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keeper.domain import ChainTime, Reason, Record, Refuse, Step, TakeOver, Unknown, Valuation
from keeper.lending.words import Flash, FlashTakeOver
from keeper.plan import bounds
from keeper.plan.bounds import Bound
from keeper.plan.common import Gas, Policy, step, unprofitable
from keeper.plan.economics import Prudence, is_endangered, least_income_wad, loss_wad, weigh
from keeper.plan.lending import FlashParams
from keeper.ports import Offer, PerpMarket, Takeover
from keeper.units import WAD, Wad, Wei, mul_div_trunc, mul_div_up

BISECTIONS = 32
"""Steps of a search between nothing and the most: to less than a billionth of it."""
OFFERS = 2
"""Positions of an account that are tried with borrowed margin."""
PARTS = 4
"""Into which the most is divided for candidates."""
LOAN_SPARE = 5
"""One over the part of the margin that is borrowed beyond it: marks move until inclusion."""


@dataclass(frozen=True, slots=True)
class Params:
    """What makes a takeover worth sending. Quote amounts in WAD."""

    policy: Policy = Policy.RESTORE
    target_wad: Wad = 105 * WAD // 100
    """Value over requirement that ``restore`` leaves an account with."""
    min_profit_wad: Wad = 0
    """Smallest reward less gas."""
    free_margin_share_wad: Wad = 9 * WAD // 10
    """How much of a takeover that the keeper's own margin bounds is asked for: marks move until inclusion."""
    validity_blocks: int = 3
    gas: Gas = field(default_factory=lambda: Gas(1_200_000, 200_000))
    """By position of the account and of the keeper, each of which is valued several times over: 1.07 to 1.42
    million were measured for the first one."""
    prudence: Prudence = field(default_factory=Prudence)
    """Its depths are by virtual token; what borrowed margin takes over is closed at once, so that none
    bounds it."""
    flash: FlashParams | None = None
    """None: the keeper's own account takes over, and keeps what it took."""
    flash_gas: Gas = field(default_factory=lambda: Gas(1_600_000, 200_000))
    """By position of the account: 1.70 to 1.82 million were measured for the first one."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the keeper has to act with at this head."""

    taker: Any
    """Its own account, with what it takes over in this block already added."""
    gas_price_wei: Wei
    native_price_wad: Wad
    """Quote per unit of the native currency."""
    record: Record = field(default_factory=Record)
    """With what the steps of this block take already added."""
    pace_wad: Wad = WAD
    """The pace of this account, that of the whole keeper included."""

    def gas_cost_wad(self, gas: int) -> Wad:
        """Return the cost of ``gas`` in quote, rounded up."""
        return -(-gas * self.gas_price_wei * self.native_price_wad // WAD)


@dataclass(frozen=True, slots=True)
class Case:
    """One account that the contract would let anybody take over, and all that a takeover of it depends on."""

    case_id: str
    account: Any
    market: PerpMarket[Any, Any]
    world: Any
    means: Means
    at: ChainTime


@dataclass(frozen=True, slots=True)
class Planned:
    """A takeover worth sending: the step, and the keeper's account after it."""

    step: Step
    taker: Any


def plan_takeover(case: Case, params: Params) -> Planned | Refuse:
    """Plan the takeover that is due of an account, of one of its positions, at its pace.

    Where that leaves too little to pay, or a part that does harm, all that is wanted goes.
    """
    found = _plan_takeover(case, params)
    if isinstance(found, Planned) or case.means.pace_wad >= WAD:
        return found
    return _plan_takeover(replace(case, means=replace(case.means, pace_wad=WAD)), params)


def _plan_takeover(case: Case, params: Params) -> Planned | Refuse:
    gas = params.gas.typical(len(case.account.trader.positions) + len(case.means.taker.trader.positions))
    least_wad = least_income_wad("takeover", case.means, params.prudence, params.min_profit_wad, gas=gas)
    offers = case.market.offers(case.account, case.world)
    sized = [_sized(case, offer, least_wad, params) for offer in offers]
    found = [each for each in sized if isinstance(each, Sized)]
    if not found:
        return _first_refusal(sized)
    chosen = _chosen([each.takeover for each in found], least_wad, params)
    if harm := _harm(case, chosen):
        return Refuse(harm)
    takes, held = {chosen.market: chosen.notional_wad}, _held(case, chosen)
    exit_wad = bounds.taken(takes, held, params.prudence.depth)
    economics = weigh("takeover", case.means, income_wad=chosen.reward_wad, exit_wad=exit_wad, gas=gas)
    loses_wad = loss_wad(
        "takeover.unprofitable",
        economics,
        params.prudence,
        params.min_profit_wad,
        endangered=_is_endangered(case, params),
    )
    if isinstance(loses_wad, Refuse):
        return loses_wad
    planned = step(
        case.case_id,
        TakeOver(case.account.key, chosen.market, chosen.size_wad),
        case.at,
        validity_blocks=params.validity_blocks,
        gas=gas,
        profit_wad=economics.profit_wad,
        notional_wad=abs(chosen.notional_wad),
    )
    planned = replace(
        planned,
        takes=tuple(takes.items()),
        bounds=next(each.bounds for each in found if each.takeover is chosen),
        economics=economics,
        loss_wad=loses_wad,
        ends_at_wad=_ends_at_wad(case, chosen),
    )
    return Planned(planned, case.market.taken(case.means.taker, chosen))


@dataclass(frozen=True, slots=True)
class Sized:
    """A takeover of one position, and what kept it from being larger."""

    takeover: Takeover
    bounds: tuple[Reason, ...] = ()


def _ends_at_wad(case: Case, found: Takeover) -> Wad | None:
    """Return the account's health, where a takeover should end its breach."""
    before = case.market.stand(case.account, case.world)
    if isinstance(before, Unknown) or not before.required_wad or not found.margin.covers():
        return None
    return before.value_wad * WAD // before.required_wad


def _harm(case: Case, found: Takeover) -> Reason | None:
    """Say what speaks against taking over a part of a position: it leaves the account less healthy."""
    before, after = case.market.stand(case.account, case.world), found.margin
    if isinstance(before, Unknown) or found.size_wad == case.market.size_wad(case.account, found.market):
        return None
    return bounds.harms(
        Valuation(before.value_wad, before.required_wad, 0), Valuation(after.value_wad, after.required_wad, 0)
    )


def _is_endangered(case: Case, params: Params) -> bool:
    margin = case.market.stand(case.account, case.world)
    if isinstance(margin, Unknown):
        return False
    whole = (
        case.market.take_over(case.account, offer, offer.most_wad, case.world)
        for offer in case.market.offers(case.account, case.world)
    )
    exposures = {each.market: each.notional_wad for each in whole if isinstance(each, Takeover)}
    return is_endangered(margin.value_wad, exposures, params.prudence)


def _held(case: Case, found: Takeover) -> dict[str, Wad]:
    """Return what the keeper's position in the same market comes to at the mark."""
    held_wad = case.market.size_wad(case.means.taker, found.market)
    return {found.market: mul_div_trunc(held_wad, found.notional_wad, found.size_wad)}


def _first_refusal(sized: Sequence[Sized | Takeover | Refuse]) -> Refuse:
    none = Refuse(Reason("takeover.none", "no position in an open market", "one"))
    return next((each for each in sized if isinstance(each, Refuse)), none)


def _chosen(found: Sequence[Takeover], least_wad: Wad, params: Params) -> Takeover:
    """Choose among the positions: where one is enough and pays, the least; else what brings the most."""
    enough = [each for each in found if _is_enough(each, least_wad, params)]
    if params.policy is Policy.RESTORE and enough:
        return min(enough, key=lambda each: abs(each.notional_wad))
    return max(found, key=lambda each: each.reward_wad)


def _is_enough(found: Takeover | Refuse, least_wad: Wad, params: Params) -> bool:
    """Tell whether a takeover leaves the account at the target, for a reward that pays."""
    return (
        isinstance(found, Takeover)
        and found.margin.covers(params.target_wad)
        and found.reward_wad >= least_wad
    )


def _sized(case: Case, offer: Offer, least_wad: Wad, params: Params) -> Sized | Refuse:
    """Return the takeover of one position that the policy wants, as far as all bounds allow.

    What restores is taken larger where only that pays: otherwise a small account would stay below its limit.
    """

    def take(size_wad: Wad) -> Takeover | Refuse:
        return case.market.take_over(case.account, offer, size_wad, case.world)

    found = take(_wanted_wad(case, offer, least_wad, params))
    if isinstance(found, Refuse):
        return found
    bound_by = _bounds(case, found, params)
    if bound_by:
        size_wad = mul_div_trunc(found.size_wad, bound_by[0].part_wad, WAD)
        smaller = take(size_wad) if size_wad else None
        if not isinstance(smaller, Takeover):
            return Refuse(bound_by[0].reason)
        found = smaller
    reasons = tuple(each.reason for each in bound_by)
    if _bears(case, found):
        return Sized(found, reasons)
    too_much_wad = _least(found.size_wad, lambda size_wad: not _bears(case, take(size_wad)))
    size_wad = mul_div_trunc(too_much_wad, params.free_margin_share_wad, WAD)
    borne = take(size_wad) if size_wad else found
    if isinstance(borne, Refuse) or not _bears(case, borne):
        return _no_margin(case)
    margin = Reason("size.margin", f"{offer.market}: {found.size_wad / WAD:.6f}", "the keeper's margin")
    return Sized(borne, (margin, *reasons))


def _bounds(case: Case, found: Takeover, params: Params) -> tuple[Bound, ...]:
    """Return what depth, inventory and pace leave of a takeover."""
    tight = bounds.of_market(
        {found.market: found.notional_wad},
        params.prudence.depth,
        moved_wad=case.means.record.moved_wad,
        held_wad=_held(case, found),
    )
    return bounds.binding([*tight, *bounds.of_pace(case.means.pace_wad, WAD)], WAD)


def _wanted_wad(case: Case, offer: Offer, least_wad: Wad, params: Params) -> Wad:
    """Return the size that the policy wants of one position."""

    def restores(size_wad: Wad) -> bool:
        return _is_enough(case.market.take_over(case.account, offer, size_wad, case.world), least_wad, params)

    if params.policy is Policy.MAX or not restores(offer.most_wad):
        return offer.most_wad
    return _least(offer.most_wad, restores)


def _bears(case: Case, found: Takeover | Refuse) -> bool:
    """Tell whether the keeper's account passes afterwards; where that cannot be told, the simulation will."""
    if isinstance(found, Refuse):
        return False
    free_wad = case.market.free_wad(case.market.taken(case.means.taker, found), case.world)
    return isinstance(free_wad, Unknown) or free_wad >= 0


def _no_margin(case: Case) -> Refuse:
    free_wad = case.market.free_wad(case.means.taker, case.world)
    found = free_wad.why if isinstance(free_wad, Unknown) else f"{free_wad / WAD:.2f} beyond its margin"
    return Refuse(
        Reason("taker.no_margin", f"the keeper's account has {found}", "a takeover's initial margin")
    )


def _least(most_wad: Wad, holds: Callable[[Wad], bool]) -> Wad:
    """Return the least size, with the sign of ``most_wad``, from which on something holds up to that."""
    low, high = 0, abs(most_wad)
    sign = 1 if most_wad > 0 else -1
    for _ in range(BISECTIONS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        low, high = (low, middle) if holds(sign * middle) else (middle, high)
    return sign * high


# --- with borrowed margin ------------------------------------------------------------------------


def plan_flash(case: Case, params: Params, flash: FlashParams) -> tuple[Step, ...] | Refuse:
    """Plan takeovers that a FlashLiquidator pays for: sizes of the positions that are worth the most."""
    found = [
        case.market.take_over(case.account, offer, size_wad, case.world)
        for offer in case.market.offers(case.account, case.world)[:OFFERS]
        for size_wad in _sizes(case, offer, params)
    ]
    steps = [_flash(case, each, params, flash) for each in found if isinstance(each, Takeover)]
    return tuple(steps) or _first_refusal(found)


def _sizes(case: Case, offer: Offer, params: Params) -> Sequence[Wad]:
    """Return the size that the policy wants, and parts of the most: the pool may pay for a small one."""
    wanted_wad = _wanted_wad(case, offer, 0, params)
    parts = [mul_div_trunc(offer.most_wad, part, PARTS) for part in range(1, PARTS + 1)]
    if case.means.pace_wad < WAD:
        # A slower keeper takes nothing larger than it would at its pace.
        wanted_wad = mul_div_trunc(wanted_wad, case.means.pace_wad, WAD)
        parts = [each for each in parts if abs(each) <= abs(wanted_wad)]
    return list(dict.fromkeys(size for size in (wanted_wad, *parts) if size))


def _flash(case: Case, found: Takeover, params: Params, flash: FlashParams) -> Step:
    """Return a step with borrowed margin; it reverts where it brings less than gas and the least profit."""
    unit_wad, gas = case.market.unit_wad(case.world), flash_gas(case.account, params)
    margin_wad = case.market.margin_wad(found, case.world)
    needed_wad = case.means.gas_cost_wad(gas) + params.min_profit_wad
    loan = Flash(flash.liquidator, flash.lender, "", (), mul_div_up(needed_wad, 1, unit_wad))
    lent = mul_div_up(margin_wad, LOAN_SPARE + 1, LOAN_SPARE * unit_wad)
    planned = step(
        case.case_id,
        FlashTakeOver(case.account.key, found.market, found.size_wad, lent, loan),
        case.at,
        validity_blocks=params.validity_blocks,
        gas=gas,
        profit_wad=params.min_profit_wad,
        notional_wad=abs(found.notional_wad),
    )
    return replace(planned, ends_at_wad=_ends_at_wad(case, found))


def flash_gas(account: Any, params: Params) -> int:
    """Return what taking over a position of an account with borrowed margin typically uses."""
    return params.flash_gas.typical(len(account.trader.positions))


def chosen(case: Case, gone: Sequence[Step], params: Params) -> Step | Refuse:
    """Choose among steps with borrowed margin that went through, each with the profit that it brought.

    ``restore`` takes the smallest that is enough and pays; ``max``, and where none is enough, the one that
    brings the most.
    """
    counted_wad = params.prudence.counted_wad
    paying = [each for each in gone if counted_wad(each) >= params.min_profit_wad]
    if not paying:
        best_wad = max(map(counted_wad, gone))
        return unprofitable("takeover.unprofitable", best_wad, params.min_profit_wad)
    enough = [each for each in paying if _leaves_enough(case, each, params)]
    if params.policy is Policy.RESTORE and enough:
        return min(enough, key=lambda each: each.notional_wad)
    return max(paying, key=lambda each: each.expected_profit_wad)


def _leaves_enough(case: Case, step_: Step, params: Params) -> bool:
    act = step_.act
    assert isinstance(act, FlashTakeOver)
    offer = Offer(act.market, act.size_wad)
    return _is_enough(case.market.take_over(case.account, offer, act.size_wad, case.world), 0, params)
