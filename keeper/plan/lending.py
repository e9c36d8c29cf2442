"""Planning for lending protocols: how much of which debt is repaid, what with, and whether it pays.

``restore`` closes the least that brings an account back above its target: many small steps, of which the
owner keeps what is not needed, and the keeper earns less by each. ``max`` closes what the protocol allows:
the owner pays the whole bonus. Neither closes a part where that leaves the account worse off than before.

Sizes and routes are candidates of one act. Each is simulated as the exact transaction, so that the depth of a
pool is tried and not modelled; ``chosen`` then takes one by what the contract returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from keeper.domain import Act, ChainTime, Economics, Reason, Record, Refuse, Step, Unknown
from keeper.lending.routes import Pool, Route
from keeper.lending.words import (
    Approve,
    Close,
    Convert,
    Flash,
    Heal,
    Lender,
    Redeem,
    Repay,
    RepayAll,
    Standing,
    Sweep,
    Way,
)
from keeper.plan import bounds
from keeper.plan.bounds import ROUNDING, Bound
from keeper.plan.common import Policy, step, unprofitable
from keeper.plan.economics import Prudence, is_endangered, loss_wad, weigh
from keeper.ports import LendingMarket
from keeper.units import WAD, AccountKey, Wad, Wei, mul_div_down, mul_div_up

WAYS = 2
"""Pairs of debt and collateral by which an account is tried to be closed, of those that may pay."""
FINENESS = 1_000
"""One over how near the search comes to the least that restores an account, as a part of the most."""
FLASH_GAS = 180_000
"""What the loan and the book-keeping around it use, beside closing."""
HOP_GAS = 110_000
APPROVE_GAS = 50_000
SPARE = 1_000
"""One over what an approval allows more: interest grows until it is used."""


class Roads(Protocol):
    """Where tokens can be sold."""

    def routes(self, sell: str, buy: str) -> Sequence[Route]:
        """Return the routes to be tried, the deepest first; an empty one where both are the same token."""
        ...

    def lender(self, token: str, route: Route) -> Pool | None:
        """Return a pool of Uniswap v3 that could lend a token beside a route."""
        ...


@dataclass(frozen=True, slots=True)
class FlashParams:
    """The contract that closes with borrowed tokens, and who lends them."""

    liquidator: str
    lender: Lender


@dataclass(frozen=True, slots=True)
class ConvertParams:
    """What the wallet turns everything into that it seized, and the router of Uniswap v3 by which."""

    router: str
    into: str


@dataclass(frozen=True, slots=True)
class Params:
    """What makes a closing worth sending. Quote amounts in WAD."""

    policy: Policy = Policy.RESTORE
    target_health_wad: Wad = 105 * WAD // 100
    """Up to which ``restore`` brings an account."""
    slippage_wad: Wad = WAD // 100
    """How far below its price what is seized may sell; bonuses count as so much less."""
    min_profit_wad: Wad = 0
    flash: FlashParams | None = None
    """None: the wallet pays."""
    convert: ConvertParams | None = None
    """None: the wallet keeps what it seized."""
    validity_blocks: int = 3
    prudence: Prudence = field(default_factory=Prudence)
    """Its depths are by token; what borrowed tokens bring is sold at once, and tried: none bounds that."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What the wallet has, and what it allows whom, in units."""

    balances: Mapping[str, int]
    """By token."""
    allowances: Mapping[tuple[str, str], int]
    """By token and spender."""
    promised: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """What approvals of this block are for. A later one takes their place, and so covers them as well."""

    def lacks(self, token: str, spender: str, amount: int) -> bool:
        """Tell whether an approval has to come before so much is taken."""
        pocket = (token, spender)
        return pocket in self.promised or self.allowances.get(pocket, 0) < amount


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to act with, less what the steps of this block take."""

    purse: Purse
    gas_price_wei: Wei
    native_price_wad: Wad
    record: Record = field(default_factory=Record)
    """With what the steps of this block take already added."""
    coming_wad: Mapping[str, Wad] = field(default_factory=dict)
    """What these seize, by token: it is not in the purse yet."""
    pace_wad: Wad = WAD
    """The pace of this account, that of the whole keeper included."""

    def gas_cost_wad(self, gas: int) -> Wad:
        """Return the cost of ``gas`` in quote, rounded up."""
        return -(-gas * self.gas_price_wei * self.native_price_wad // WAD)


@dataclass(frozen=True, slots=True)
class Case:
    """One account to be closed, with the worlds of both clocks carried to the block of the step."""

    case_id: str
    account: AccountKey
    loan: Any
    standing: Standing
    market: LendingMarket[Any, Any]
    chain: Any
    fast: Any
    at: ChainTime

    def worth_wad(self, token: str, amount: int) -> tuple[Wad, Wad] | Unknown:
        """Return what an amount is worth at the lower and at the higher of both prices."""
        return worth_wad(self.market, (self.chain, self.fast), token, amount)


def worth_wad(
    market: LendingMarket[Any, Any], worlds: Sequence[Any], token: str, amount: int
) -> tuple[Wad, Wad] | Unknown:
    """Return the least and the most that an amount is worth in some worlds."""
    worths = []
    for world in worlds:
        found = market.worth_wad(token, amount, world)
        if isinstance(found, Unknown):
            return found
        worths.append(found)
    return min(worths), max(worths)


def plan_close(case: Case, means: Means, pools: Roads, params: Params) -> tuple[Step, ...] | Refuse:
    """Plan every size and route of one closing that may pay; where none does, say why not the first."""
    sweep = case.market.sweep(case.loan, case.chain)
    if sweep is not None:
        return _swept(case, sweep, means, params)
    planned: list[list[Step]] = []
    refusals: list[Refuse] = []
    for way in case.market.ways(case.loan, case.chain):
        found = _by_way(case, way, means, pools, params)
        if isinstance(found, Refuse):
            refusals.append(found)
        elif found:
            planned.append(found)
        if len(planned) == WAYS:
            break
    if planned:
        return tuple(each for steps in planned for each in steps)
    none = Refuse(Reason("size.no_way", "the protocol accepts no pair", "a debt and a collateral"))
    return refusals[0] if refusals else none


def _by_way(case: Case, way: Way, means: Means, pools: Roads, params: Params) -> list[Step] | Refuse:
    limit = case.market.most(case.loan, way, case.chain)
    if params.flash is None:
        limit = min(limit, means.purse.balances.get(way.debt, 0))
        if limit == 0:
            return Refuse(Reason("means.no_tokens", f"0 of {way.debt}", "some, to repay with"))
    largest = case.market.close(case.loan, way, limit, case.chain)
    if isinstance(largest, Refuse):
        return largest
    # Before any search for sizes: dust in twenty reserves is four hundred pairs, in breach at every head.
    most = _weighed(case, way, largest, means, params)
    if isinstance(most, Unknown):
        return unvalued(most)
    # What selling it costs is left to each size: of less depth a smaller one may pay.
    loses_wad = _loses_wad(case, replace(most, exit_wad=0), params, (way.collateral,))
    if isinstance(loses_wad, Refuse):
        return loses_wad
    bound_by = _bounds(case, way, largest, means, params)
    if bound_by:
        limit = mul_div_down(limit, bound_by[0].part_wad, WAD)
        if isinstance(case.market.close(case.loan, way, limit, case.chain), Refuse):
            return Refuse(bound_by[0].reason)
    found = _paced(case, way, limit, means, pools, params)
    if isinstance(found, Refuse):
        return found
    return [replace(each, bounds=(*each.bounds, *(bound.reason for bound in bound_by))) for each in found]


def _paced(
    case: Case, way: Way, limit: int, means: Means, pools: Roads, params: Params
) -> list[Step] | Refuse:
    """Return the steps at the account's pace.

    Where that leaves too little to pay, or less than the protocol takes, all that is wanted goes.
    """
    if means.pace_wad < WAD:
        sizes = sizes_of(case, way, limit, params, pace_wad=means.pace_wad)
        found = sizes if isinstance(sizes, Refuse) else _steps(case, way, sizes, means, pools, params)
        if not isinstance(found, Refuse):
            reasons = tuple(each.reason for each in bounds.of_pace(means.pace_wad, WAD))
            return [replace(each, bounds=reasons) for each in found]
    sizes = sizes_of(case, way, limit, params)
    return sizes if isinstance(sizes, Refuse) else _steps(case, way, sizes, means, pools, params)


def _steps(
    case: Case, way: Way, sizes: Sequence[Close], means: Means, pools: Roads, params: Params
) -> list[Step] | Refuse:
    if params.flash is None:
        return _own(case, way, sizes, means, params)
    return _borrowed(case, way, sizes, means, pools, params, params.flash)


def _bounds(case: Case, way: Way, largest: Close, means: Means, params: Params) -> tuple[Bound, ...]:
    """Return what depth and inventory leave of the largest closing that the wallet pays for."""
    if params.flash is not None or not params.prudence.depth:
        return ()
    found = bounds.of_market(
        _takes(case, way, largest),
        params.prudence.depth,
        moved_wad=means.record.moved_wad,
        held_wad=_held(case, way, means),
    )
    return bounds.binding(found, WAD)


def _takes(case: Case, way: Way, close: Close) -> dict[str, Wad]:
    """Return what the wallet has more after a closing, at the higher of both prices."""
    worth = case.worth_wad(way.collateral, close.seized)
    return {} if isinstance(worth, Unknown) else {way.collateral: worth[1]}


def _held(case: Case, way: Way, means: Means) -> dict[str, Wad]:
    worth = case.worth_wad(way.collateral, means.purse.balances.get(way.collateral, 0))
    coming_wad = means.coming_wad.get(way.collateral, 0)
    return {way.collateral: coming_wad + (0 if isinstance(worth, Unknown) else worth[1])}


def _borrowed(
    case: Case,
    way: Way,
    sizes: Sequence[Close],
    means: Means,
    pools: Roads,
    params: Params,
    flash: FlashParams,
) -> list[Step] | Refuse:
    """Return steps that a FlashLiquidator pays for: every size along every route that has a lender."""
    routes = pools.routes(way.collateral, way.debt)
    if not routes:
        found = f"no pool sells {way.collateral} for {way.debt}"
        return Refuse(Reason("route.none", found, "a direct pool, or two over a bridge token"))
    loans = [(route, pool) for route in routes for pool in _lending_pools(way, route, pools, flash)]
    if not loans:
        found = f"no pool of Uniswap v3 lends {way.debt} beside the routes"
        return Refuse(Reason("route.no_lender", found, "another pool, or another closing.lender"))
    steps, refusals = list[Step](), list[Refuse]()
    for close in sizes:
        most = _weighed(case, way, close, means, params)
        paid = case.worth_wad(way.debt, close.repaid)
        if isinstance(most, Unknown):
            return unvalued(most)
        if isinstance(paid, Unknown):
            return unvalued(paid)
        loses_wad = _loses_wad(case, most, params, (way.collateral,))
        if isinstance(loses_wad, Refuse):
            refusals.append(loses_wad)
            continue
        for route, pool in loans:
            loan = Flash(flash.liquidator, flash.lender, pool, route, 0)
            steps.append(_flash(case, way, close, paid, loan, means, params))
    return steps or refusals[0]


def _lending_pools(way: Way, route: Route, pools: Roads, flash: FlashParams) -> Sequence[str]:
    """Return the pool that lends, empty where another lender does; none where there is none."""
    if flash.lender is not Lender.UNISWAP_V3:
        return [""]
    pool = pools.lender(way.debt, route)
    return [pool.address] if pool else []


# --- sizes ---------------------------------------------------------------------------------------


def sizes_of(
    case: Case, way: Way, limit: int, params: Params, *, pace_wad: Wad = WAD
) -> tuple[Close, ...] | Refuse:
    """Return the closings to try, the one that is wanted first, where ``limit`` is the most to repay.

    A pace takes so much of what is wanted; what has to be closed whole knows none.
    """
    market, loan, world = case.market, case.loan, case.chain
    largest = market.close(loan, way, limit, world)
    if isinstance(largest, Refuse):
        return largest
    if is_harmful(case.standing, way.bonus_wad, params.slippage_wad):
        return (largest,) if largest.is_whole else _harms(case.standing, way)
    if pace_wad < WAD:
        most = params.policy is Policy.MAX
        wanted = limit if most else _least(case, way, limit, params.target_health_wad)
        limit = mul_div_down(wanted, pace_wad, WAD)
        largest = market.close(loan, way, limit, world)
        if isinstance(largest, Refuse):
            return largest
    amounts: Sequence[int]
    if params.policy is Policy.MAX:
        amounts = [limit * part // 4 for part in (3, 2, 1)]
        found = [largest, *(market.close(loan, way, each, world) for each in amounts if each)]
    else:
        least = _least(case, way, limit, params.target_health_wad)
        amounts = [least + (limit - least) * part // 4 for part in range(4)] if least < limit else []
        found = [*(market.close(loan, way, each, world) for each in amounts), largest]
    closings = dict.fromkeys(each for each in found if isinstance(each, Close))
    return tuple(each for each in closings if not _is_worse(case.standing, each)) or _harms(
        case.standing, way
    )


def _is_worse(standing: Standing, close: Close) -> bool:
    """Tell whether a part closed leaves an account less healthy than before, by more than rounding."""
    if close.is_whole or standing.health_wad is None or close.health_after_wad is None:
        return False
    return close.health_after_wad * WAD < standing.health_wad * (WAD - ROUNDING)


def is_harmful(standing: Standing, bonus_wad: Wad, slippage_wad: Wad) -> bool:
    """Tell whether closing a part takes more from the account than it heals.

    So it is where the debt, with bonus and slippage on it, is not less than the collateral: at a loan to
    value of no less than 1 / ((1 + bonus) (1 + slippage)).
    """
    taken_wad = standing.debt_wad * (WAD + bonus_wad) * (WAD + slippage_wad)
    return taken_wad >= standing.collateral_wad * WAD * WAD


def _harms(standing: Standing, way: Way) -> Refuse:
    ltv = standing.debt_wad / standing.collateral_wad if standing.collateral_wad else float("inf")
    bound = f"a loan to value below 1 / {1 + way.bonus_wad / WAD:.4f}, or all of a debt or of a collateral"
    return Refuse(Reason("size.harm", f"loan to value {ltv:.4f}", bound))


def _least(case: Case, way: Way, limit: int, target_wad: Wad) -> int:
    """Return about the least amount that brings the account to its target; ``limit`` where none does."""
    enough, too_little = limit, 0
    while enough - too_little > max(1, limit // FINENESS):
        middle = (enough + too_little) // 2
        close = case.market.close(case.loan, way, middle, case.chain)
        restores = isinstance(close, Close) and _restores(close, target_wad)
        enough, too_little = (middle, too_little) if restores else (enough, middle)
    return enough


def _restores(close: Close, target_wad: Wad) -> bool:
    return close.health_after_wad is None or close.health_after_wad >= target_wad


# --- steps ---------------------------------------------------------------------------------------


def _own(case: Case, way: Way, sizes: Sequence[Close], means: Means, params: Params) -> list[Step] | Refuse:
    """Return steps that the wallet pays for, or the approval that has to come before."""
    steps, refusals = list[Step](), list[Refuse]()
    for close in sizes:
        economics = _weighed(case, way, close, means, params)
        paid = case.worth_wad(way.debt, close.repaid)
        if isinstance(economics, Unknown):
            return unvalued(economics)
        if isinstance(paid, Unknown):
            return unvalued(paid)
        loses_wad = _loses_wad(case, economics, params, (way.collateral,))
        if isinstance(loses_wad, Refuse):
            refusals.append(loses_wad)
            continue
        act = Repay(case.account, way, close.by, close.asked, close.takes)
        planned = step_of(case, act, params, way.gas, economics.profit_wad, paid[1])
        steps.append(
            replace(
                planned,
                takes=tuple(_takes(case, way, close).items()),
                economics=economics,
                loss_wad=loses_wad,
                ends_at_wad=_ends_at_wad(case, close),
            )
        )
    if not steps:
        return refusals[0]
    needed = max(each.act.takes for each in steps if isinstance(each.act, Repay))
    if means.purse.lacks(way.debt, way.venue, needed):
        return _approvals(case, way.debt, way.venue, needed, means, params)
    return steps


def _approvals(case: Case, token: str, spender: str, amount: int, means: Means, params: Params) -> list[Step]:
    """Return the approval, and the one of nothing for tokens that change an allowance from zero only."""
    purse, pocket = means.purse, (token, spender)
    amounts = [purse.promised.get(pocket, 0) + amount + amount // SPARE + 1]
    if purse.allowances.get(pocket, 0) and pocket not in purse.promised:
        amounts.append(0)
    cost_wad = means.gas_cost_wad(APPROVE_GAS)
    acts = [Approve(case.account, token, spender, each) for each in amounts]
    return [step_of(case, act, params, APPROVE_GAS, -cost_wad, 0) for act in acts]


def _flash(
    case: Case,
    way: Way,
    close: Close,
    paid: tuple[Wad, Wad],
    loan: Flash,
    means: Means,
    params: Params,
) -> Step:
    """Return a step with borrowed tokens; it reverts where it brings less than gas and the least profit."""
    gas = _flash_gas(way, loan.route)
    needed_wad = means.gas_cost_wad(gas) + params.min_profit_wad
    # Dust that is worth nothing is not repaid with borrowed tokens: more than itself would have to be left.
    min_profit = mul_div_up(needed_wad, close.repaid, paid[0]) if paid[0] else close.repaid + 1
    loan = replace(loan, min_profit=min_profit)
    act = Repay(case.account, way, close.by, close.asked, close.takes, loan)
    planned = step_of(case, act, params, gas, params.min_profit_wad, paid[1])
    return replace(planned, ends_at_wad=_ends_at_wad(case, close))


def _ends_at_wad(case: Case, close: Close) -> Wad | None:
    """Return the account's health, where a closing should end its breach."""
    ends = close.health_after_wad is None or close.health_after_wad >= WAD
    return case.standing.health_wad if ends else None


def _swept(case: Case, sweep: Sweep, means: Means, params: Params) -> tuple[Step, ...] | Refuse:
    """Plan the act that closes an account whole, which the wallet pays for."""
    got = [case.worth_wad(*each) for each in sweep.gets]
    paid = [case.worth_wad(due.token, due.amount) for due in sweep.pays]
    unknown = next((each for each in (*got, *paid) if isinstance(each, Unknown)), None)
    if unknown is not None:
        return unvalued(unknown)
    for due in sweep.pays:
        held = means.purse.balances.get(due.token, 0)
        if held < due.amount:
            bound = f"{due.amount}, to close the account whole"
            return Refuse(Reason("means.no_tokens", f"{held} of {due.token}", bound))
    got_wad = sum(each[0] for each in got if not isinstance(each, Unknown))
    paid_wad = sum(each[1] for each in paid if not isinstance(each, Unknown))
    kind, exit_wad = type(sweep.act).__name__.lower(), mul_div_up(got_wad, params.slippage_wad, WAD)
    income_wad = got_wad - paid_wad
    economics = weigh(kind, means, income_wad=income_wad, exit_wad=exit_wad, gas=sweep.gas)
    loses_wad = _loses_wad(case, economics, params, tuple(token for token, _ in sweep.gets))
    if isinstance(loses_wad, Refuse):
        return loses_wad
    for due in sweep.pays:
        if means.purse.lacks(due.token, due.spender, due.amount + due.amount // SPARE):
            return tuple(_approvals(case, due.token, due.spender, due.amount, means, params))
    # By the next block interest has grown, and the amounts are no longer those of the whole.
    at_once = replace(params, validity_blocks=1)
    planned = step_of(case, sweep.act, at_once, sweep.gas, economics.profit_wad, paid_wad)
    return (replace(planned, economics=economics, loss_wad=loses_wad, ends_at_wad=case.standing.health_wad),)


def step_of(case: Case, act: Act, params: Params, gas: int, profit_wad: Wad, notional_wad: Wad) -> Step:
    return step(
        case.case_id,
        act,
        case.at,
        validity_blocks=params.validity_blocks,
        gas=gas,
        profit_wad=profit_wad,
        notional_wad=notional_wad,
    )


def _weighed(case: Case, way: Way, close: Close, means: Means, params: Params) -> Economics | Unknown:
    """Return what one closing brings, of which a larger one brings more.

    With borrowed tokens it is the most that it may bring, sold at the better of both prices: the simulation
    tells what it does.
    """
    got, paid = case.worth_wad(way.collateral, close.seized), case.worth_wad(way.debt, close.repaid)
    if isinstance(got, Unknown):
        return got
    if isinstance(paid, Unknown):
        return paid
    if params.flash is not None:
        gas = _flash_gas(way, ())
        return weigh("repay", means, income_wad=got[1] - paid[0], exit_wad=0, gas=gas)
    slips_wad = mul_div_up(got[0], params.slippage_wad, WAD)
    exit_wad = bounds.taken(_takes(case, way, close), _held(case, way, means), params.prudence.depth)
    income_wad = got[0] - paid[1]
    return weigh("repay", means, income_wad=income_wad, exit_wad=max(slips_wad, exit_wad), gas=way.gas)


def _loses_wad(case: Case, economics: Economics, params: Params, collateral: tuple[str, ...]) -> Wad | Refuse:
    """Return what a closing may lose, 0 where it pays. With borrowed tokens nothing is closed at a loss."""
    standing = case.standing
    exposures = dict.fromkeys(collateral, standing.collateral_wad // max(1, len(collateral)))
    endangered = params.flash is None and is_endangered(
        standing.collateral_wad - standing.debt_wad, exposures, params.prudence
    )
    floor_wad = params.min_profit_wad
    return loss_wad("close.unprofitable", economics, params.prudence, floor_wad, endangered=endangered)


def unvalued(unknown: Unknown) -> Refuse:
    found = f"{unknown.what}: {unknown.why}"
    return Refuse(Reason("value.unknown", found, "a price of what is repaid and of what is seized"))


# --- what was simulated --------------------------------------------------------------------------


def with_profit(
    step_: Step,
    way: Way,
    route: Route,
    profit: int,
    market: LendingMarket[Any, Any],
    worlds: Sequence[Any],
    means: Means,
) -> Step:
    """Return the step of a closing with borrowed tokens with what it left, in units of the debt, less gas."""
    worth = worth_wad(market, worlds, way.debt, profit)
    brought_wad = 0 if isinstance(worth, Unknown) else worth[0]
    gas = _flash_gas(way, route)
    economics = weigh(step_.kind, means, income_wad=brought_wad, exit_wad=0, gas=gas)
    return replace(step_, expected_profit_wad=economics.profit_wad, economics=economics)


def chosen(gone: Sequence[Step], params: Params) -> Step | Refuse:
    """Choose among steps that went through, each with the profit that it brought.

    ``restore`` takes the smallest that pays, ``max`` the one that brings most. What the wallet pays for was
    weighed when it was planned, and may go at a loss; what borrowed tokens pay for only the simulation has
    told. What is done with the wallet's own tokens brings nothing by itself: it comes where nothing else went
    through.
    """
    own = [each for each in gone if isinstance(each.act, Approve | Redeem | Convert)]
    closings = [each for each in gone if each not in own]
    counted_wad, least_wad = params.prudence.counted_wad, params.min_profit_wad
    paying = [each for each in closings if not _is_borrowed(each.act) or counted_wad(each) >= least_wad]
    if not paying:
        if own:
            return own[0]
        return unprofitable("close.unprofitable", max(map(counted_wad, closings)), least_wad)
    if params.policy is Policy.MAX:
        return max(paying, key=lambda each: each.expected_profit_wad)
    return min(paying, key=lambda each: (each.notional_wad, -each.expected_profit_wad))


def _is_borrowed(act: Act) -> bool:
    return isinstance(act, Repay) and act.flash is not None


def left(purse: Purse, steps: Sequence[Step], sweep: Sweep | None) -> Purse:
    """Return what other steps of the same block find, where one of these takes the most that any does.

    ``sweep`` is that of the account.
    """
    taken: dict[tuple[str, str], int] = {}
    approved = set()
    for each in steps:
        for pocket, amount in _spends(each.act, purse, sweep).items():
            taken[pocket] = max(taken.get(pocket, 0), amount)
            if isinstance(each.act, Approve):
                approved.add(pocket)
    balances, allowances, promised = dict(purse.balances), dict(purse.allowances), dict(purse.promised)
    for pocket, amount in taken.items():
        balances[pocket[0]] = max(0, balances.get(pocket[0], 0) - amount)
        if pocket in approved:
            promised[pocket] = promised.get(pocket, 0) + amount
        else:
            allowances[pocket] = max(0, allowances.get(pocket, 0) - amount)
    return Purse(balances, allowances, promised)


def _spends(act: Act, purse: Purse, sweep: Sweep | None) -> Mapping[tuple[str, str], int]:
    """Return what an act takes of the wallet, or is to allow, by token and spender."""
    match act:
        case Repay(flash=None):
            return {(act.way.debt, act.way.venue): act.takes}
        case Approve():
            pocket = (act.token, act.spender)
            return {pocket: act.amount - purse.promised.get(pocket, 0)}
        case RepayAll() | Heal() if sweep:
            return {(due.token, due.spender): due.amount for due in sweep.pays}
    return {}


def _flash_gas(way: Way, route: Route) -> int:
    """Return what a closing with borrowed tokens typically uses."""
    return way.gas + FLASH_GAS + HOP_GAS * len(route)
