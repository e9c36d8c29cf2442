"""The margins that underlyings ask for: estimated, held to every bound, weighed against accounts, and signed.

Decisions come first, and know only what they are given; the engine below reads the chain for them. Whatever
is not published says why: a `Refuse` names the evidence and the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from keeper.domain import (
    Account,
    ArrayView,
    Call,
    Head,
    OracleView,
    Quote,
    Reason,
    Refuse,
    Unknown,
    Valuation,
)
from keeper.errors import ConfigError
from keeper.ports import Reader, read_through
from keeper.protocols.hybrid import steward
from keeper.protocols.hybrid.codec import change_margins_call
from keeper.protocols.hybrid.liquidator import prices_of
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.math import maintenance
from keeper.protocols.hybrid.params import Listed as ListedMarket
from keeper.protocols.hybrid.params import Rules, Underlying
from keeper.protocols.hybrid.portfolio import Setting, setting_at
from keeper.protocols.hybrid.rows import accounts_of
from keeper.protocols.hybrid.signing import sign_margins
from keeper.protocols.hybrid.steward import Allowed, MarginChange, Stewardship, with_margins
from keeper.risk.dynamic import limited
from keeper.risk.parameters import Estimate, Market, Policy, estimate, uncertain, unsound
from keeper.risk.prices import Prices
from keeper.risk.scenarios import Option, VolShocks
from keeper.steward.arrays import Listed, Vols, proposed
from keeper.trigger.mirrored import named
from keeper.units import BPS, WAD, AccountKey, Block, FeedId, UnixS, Wad

BPS_WAD = WAD // BPS
PAGE = 200
"""Accounts of one bulk read."""
MOST_NAMED = 3
"""Of the accounts that a change would bring into breach, where it is refused."""
Held: TypeAlias = tuple[str, ...]
"""What keeps a change from going as far as its estimate, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """When a change is worth publishing, how fast it goes, and what it may do to accounts."""

    policy: Policy = field(default_factory=Policy)
    ramp_s: int = steward.RAMP_MIN_S
    validity_s: int = 600
    """How long signatures count."""
    block_time_s: int = 12
    least_change: float = 0.05
    """Of the margins published last: a smaller change is not worth a ramp."""
    most_rise: float = 0.25
    """In a day, whatever the owner would allow."""
    most_swing: float = 3.0
    """An estimate so many times the margin in force, or the other way round, is rather wrong than new."""
    tolerance: float = 0.1
    """Between what the closes of two sources ask for, over the first's."""
    most_breached: int = 0
    """Accounts that may be in breach at the end of the ramp and are not now, at today's prices."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What becomes of one underlying's margins, and from what that follows."""

    feed: FeedId
    terms: Underlying
    at_s: UnixS
    found: Estimate | None
    """None where the closes tell nothing."""
    before: Estimate | None
    """The same from the closes that there were at the last change; None where that was before all of them."""
    outcome: MarginChange | Refuse
    held: Held = ()
    """What keeps the change from going as far as the estimate."""


@dataclass(frozen=True, slots=True)
class Effect:
    """An account's health now, and with the margins that all ramps lead to; prices stay as they are."""

    account: AccountKey
    now: Valuation
    then: Valuation

    @property
    def breaks(self) -> bool:
        """Tell whether the margins alone would bring it into breach."""
        return self.then.breaches() and not self.now.breaches()

    @property
    def comes_nearer(self) -> bool:
        """Tell whether its requirement rises."""
        return self.then.requirement_wad > self.now.requirement_wad


# --- decisions -----------------------------------------------------------------------------------


def decide(
    found: Estimate, allowed: Allowed, terms: Underlying, *, at_s: UnixS, params: Params
) -> tuple[MarginChange | Refuse, Held]:
    """Return the change that an estimate asks for in the next block, and what holds it back.

    The chain takes it until its signatures lapse, whatever ramp is on its way. Estimates are rounded up to
    whole basis points, and never go below the least requirement of a short option.
    """
    if allowed.bounds is None:
        return _refuse(terms, "margins.no_bounds", "the owner allows no change", "bounds"), ()
    if refusal := uncertain(found, params.policy) or _swung(found, terms, params):
        return refusal, ()
    times = (at_s, at_s + params.validity_s)
    reaches = [allowed.reach(terms.mmr.at(each), terms.imr.at(each)) for each in times]
    mmr_reach, imr_reach = (
        (max(least for least, _ in both), min(most for _, most in both))
        for both in zip(*reaches, strict=True)
    )
    mmr_reach = (max(mmr_reach[0], terms.short_min.to_wad), mmr_reach[1])
    mmr_wad, mmr_held = _held("mmr", found.maintenance, terms.mmr.at(at_s), mmr_reach, params)
    imr_wad, imr_held = _held("imr", found.initial, terms.imr.at(at_s), imr_reach, params)
    change = MarginChange(terms.feed, mmr_wad, imr_wad, params.ramp_s, found.observed_at_s, times[1])
    held = (*mmr_held, *imr_held)
    for at in times:
        if broken := steward.broken_bound(change, allowed, terms, at):
            return Refuse(broken), held
    return _unchanged(change, terms, params) or change, held


def agreed(
    change: MarginChange, others: Sequence[MarginChange | Refuse], tolerance: float
) -> MarginChange | Refuse:
    """Return a change that whoever estimates by other closes would sign as well; refuse any other."""
    for number, other in enumerate(others, 2):
        if isinstance(other, Refuse):
            reason = Reason("margins.disputed", f"source {number}: {other.reason}", "the same", change.feed)
            return Refuse(reason)
        pairs = ((other.mmr_wad, change.mmr_wad), (other.imr_wad, change.imr_wad))
        apart = max(abs(theirs / ours - 1) for theirs, ours in pairs)
        if apart > tolerance:
            found = f"source {number} is {apart:.1%} away"
            return Refuse(Reason("margins.disputed", found, f"{tolerance:.1%}", change.feed))
    return change


def weigh(
    proposals: Iterable[Proposal], standing: Standing, most_breached: int
) -> tuple[tuple[Proposal, ...], tuple[Effect, ...]]:
    """Refuse the changes that would bring more accounts into breach than may be; return the others' effects.

    One after the other, each on top of those before: what two changes do together counts. Whom the ramps that
    are on their way bring there is no fault of a change.
    """
    now = standing.valued(standing.market.deployment.rules)
    weighed, changes, found = list[Proposal](), list[MarginChange](), standing.effects(now, ())
    for each in proposals:
        outcome = each.outcome
        if isinstance(outcome, MarginChange):
            effects = standing.effects(now, [*changes, outcome])
            breached = [effect.account for effect in effects if effect.breaks]
            if len(breached) > max(most_breached, sum(effect.breaks for effect in found)):
                reason = Reason("margins.breaches", _named(breached), f"{most_breached}", each.feed)
                outcome = Refuse(reason)
            else:
                changes.append(outcome)
                found = effects
        weighed.append(replace(each, outcome=outcome))
    return tuple(weighed), found


@dataclass(frozen=True, slots=True)
class Standing:
    """The accounts of a deployment at one head, and all that their margin hangs on."""

    market: HybridMarket
    accounts: tuple[Account, ...]
    oracles: OracleView
    at_s: UnixS
    vols: Vols | None = None
    """At which options are valued in a new range; without any they are judged by the arrays there are."""
    shocks: VolShocks = field(default_factory=VolShocks)

    def effects(
        self, now: Mapping[AccountKey, Valuation], changes: Sequence[MarginChange]
    ) -> tuple[Effect, ...]:
        """Hold accounts as they are ``now`` against where all ramps lead, the nearest to breach first."""
        then = self.valued(with_margins(self.market.deployment, changes).rules)
        found = [Effect(account, valued, then[account]) for account, valued in now.items()]
        return tuple(sorted(found, key=lambda each: (health(each.then), each.account)))

    def valued(self, rules: Rules) -> dict[AccountKey, Valuation]:
        """Judge by some rules who holds positions, at today's prices, the worse of both.

        An account without a view of all its feeds is left out.
        """
        feeds = [feed for feed in self.market.feeds if self._is_priced(feed)]
        prices = prices_of(feeds, self.oracles, 0, self.at_s)
        setting = self._revalued(setting_at(rules, self.oracles, self.at_s))
        return {
            account.key: min(
                (maintenance(account, marks, setting) for marks in (prices.fast, prices.slow)), key=health
            )
            for account in self.accounts
            if account.legs and set(self.market.feeds_of(account)) <= set(feeds)
        }

    def largest(self, feed: FeedId) -> float:
        """Return the largest position in an underlying, perps of it net, in quote."""
        perps = [each.market for each in self._listed(feed) if not each.is_option]
        sizes = [
            sum(leg.size_wad for leg in account.legs if leg.market in perps) for account in self.accounts
        ]
        return max(map(abs, sizes), default=0) / WAD * self.oracles[feed].slow_wad / WAD

    def mark(self, feed: FeedId) -> float | None:
        """Return the chain's own price: the slow one, else the fast one; None where neither counts."""
        view = self.oracles[feed]
        if view.slow_ok and view.slow_wad > 0:
            return view.slow_wad / WAD
        return view.fast_wad / WAD if view.fast_fresh(self.at_s) else None

    def _is_priced(self, feed: FeedId) -> bool:
        return feed in self.oracles and min(self.oracles[feed].fast_wad, self.oracles[feed].slow_wad) > 0

    def _revalued(self, setting: Setting) -> Setting:
        """Put arrays of a new range in the place of those that there are: the next post brings them."""
        today = self.market.deployment.rules.at(self.at_s).risks
        arrays = dict(setting.arrays)
        for number, array in setting.arrays.items():
            feed = setting.terms.markets[number].feed
            if setting.terms.risks[feed].mmr_wad != today[feed].mmr_wad:
                revalued = self._array(number, array, setting)
                arrays[number] = array if isinstance(revalued, Unknown) else revalued
        return replace(setting, arrays=arrays)

    def _array(self, number: int, array: ArrayView, setting: Setting) -> ArrayView | Unknown:
        listed = setting.terms.markets[number]
        option = Option(number, listed.kind, listed.strike_wad, listed.expiry_s)
        unvalued = Unknown(listed.feed, "no volatility")
        vol = self.vols.vol(listed.feed, option, self.at_s) if self.vols else unvalued
        if isinstance(vol, Unknown):
            return vol
        mmr_wad = setting.terms.risks[listed.feed].mmr_wad
        quote = Quote(listed.feed, array.ref_wad, array.observed_at_s)
        found = proposed(Listed(option, listed.feed, array, (mmr_wad, mmr_wad)), quote, vol, self.shocks)
        return found if isinstance(found, Unknown) else found.view

    def _listed(self, feed: FeedId) -> Iterator[ListedMarket]:
        return (each for each in self.market.deployment.rules.markets.values() if each.feed == feed)


def health(valued: Valuation) -> float:
    """Return equity over requirement, for people and for the order; endless where nothing is required."""
    return valued.equity_wad / valued.requirement_wad if valued.requirement_wad else math.inf


def _held(
    name: str, asked: float, today_wad: Wad, reach: tuple[Wad, Wad], params: Params
) -> tuple[Wad, Held]:
    """Let a margin go no faster than the steward's own pace, and no further than the owner's bounds.

    In whole basis points, where there are any within the bounds.
    """
    held, (least_wad, most_wad) = [], reach
    per_h = (1 + params.most_rise) ** (1 / 24) - 1
    paced = float(limited(today_wad / WAD, asked, elapsed_h=params.ramp_s / 3600, most_per_h=per_h))
    if paced < asked:
        held.append(
            f"{name} of {asked:.2%} to {paced:.2%} by the steward's pace of {params.most_rise:.0%} a day"
        )
    # A billionth of a basis point is what floats leave of a whole one.
    wanted_wad = math.ceil(paced * BPS - 1e-9) * BPS_WAD
    if wanted_wad > most_wad:
        held.append(f"{name} of {wanted_wad / WAD:.2%} to {most_wad / WAD:.2%} by the owner's bounds")
        wanted_wad = max(most_wad // BPS_WAD * BPS_WAD, min(least_wad, most_wad))
    elif wanted_wad < least_wad:
        held.append(f"{name} of {wanted_wad / WAD:.2%} to {least_wad / WAD:.2%} by the owner's bounds")
        wanted_wad = min(-(-least_wad // BPS_WAD) * BPS_WAD, most_wad)
    return wanted_wad, tuple(held)


def _named(accounts: Sequence[AccountKey]) -> str:
    """Say how many accounts there are, and name the first of them."""
    told = ", ".join(map(named, accounts[:MOST_NAMED]))
    others = len(accounts) - MOST_NAMED
    return f"{len(accounts)} would be in breach: {told}" + (f" and {others} more" if others > 0 else "")


def _swung(found: Estimate, terms: Underlying, params: Params) -> Refuse | None:
    in_force = terms.mmr.to_wad / WAD
    least, most = in_force / params.most_swing, in_force * params.most_swing
    if least <= found.maintenance <= most:
        return None
    return _refuse(
        terms, "data.swung", f"mmr estimated at {found.maintenance:.2%}", f"{least:.2%} to {most:.2%}"
    )


def _unchanged(change: MarginChange, terms: Underlying, params: Params) -> Refuse | None:
    """Refuse what is hardly another value than where the ramps lead already."""
    asked = ((change.mmr_wad, terms.mmr.to_wad), (change.imr_wad, terms.imr.to_wad))
    apart = max(abs(new_wad / old_wad - 1) for new_wad, old_wad in asked)
    if apart >= params.least_change:
        return None
    return _refuse(
        terms, "margins.unchanged", f"a change of {apart:.1%}", f"{params.least_change:.1%} or more"
    )


def _refuse(terms: Underlying, rule: str, evidence: str, bound: str) -> Refuse:
    return Refuse(Reason(rule, evidence, bound, terms.feed))


# --- the engine ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run has found, for every underlying and for the accounts."""

    at: Head
    stewardship: Stewardship
    proposals: tuple[Proposal, ...]
    effects: tuple[Effect, ...]
    left_out: int = 0
    """Accounts with positions that cannot be judged: a feed of theirs has no price."""

    @property
    def changes(self) -> tuple[MarginChange, ...]:
        """What is to be signed and published."""
        return tuple(each.outcome for each in self.proposals if isinstance(each.outcome, MarginChange))


@dataclass(frozen=True, slots=True)
class _Estimated:
    """What one source says."""

    found: Mapping[FeedId, Estimate]
    refused: Mapping[FeedId, Refuse]
    markets: Mapping[FeedId, Market]
    """Of what was estimated."""
    columns: Sequence[str]
    """Whose closes it has."""


class MarginSteward:
    """Proposes the margins of one deployment by recorded closes; it signs and sends nothing.

    The first source proposes, and every other one must come to the same.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        market: HybridMarket,
        sources: Sequence[Prices],
        volumes_day: Mapping[FeedId, float],
        vols: Vols | None,
        from_block: Block,
        params: Params,
    ) -> None:
        self._reader = reader
        self._market = market
        self._sources = sources
        self._volumes_day = volumes_day
        self._vols = vols
        self._from_block = from_block
        self._params = params

    async def find(self, head: Head) -> Findings:
        """Read what a quorum may move, and all accounts; propose, and weigh.

        Raises ConfigError where the deployment lets no quorum move margins.
        """
        deployment = self._market.deployment
        found = await read_through(self._reader, steward.read_stewardship(deployment), head.hash)
        if found is None:
            raise ConfigError(f"Instruments {deployment.instruments} has no steward: its owner sets one")
        oracles = self._market.decode_prices(await self._reader.call(self._market.prices_call(), head.hash))
        accounts = await self._accounts(head)
        standing = Standing(self._market, accounts, oracles, head.timestamp_s, self._vols)
        proposals = self._proposals(standing, found)
        weighed, effects = weigh(proposals, standing, self._params.most_breached)
        left_out = sum(bool(account.legs) for account in accounts) - len(effects)
        return Findings(head, found, weighed, effects, left_out)

    def _proposals(self, standing: Standing, stewardship: Stewardship) -> Iterator[Proposal]:
        first, *others = [self._estimated(each, standing) for each in self._sources]
        at_s = standing.at_s + self._params.block_time_s
        for feed, terms in self._market.deployment.rules.underlyings.items():
            allowed = stewardship.allowed[feed]
            outcome, held = self._decided(first, feed, allowed, terms, at_s)
            if isinstance(outcome, MarginChange):
                theirs = [self._decided(each, feed, allowed, terms, at_s)[0] for each in others]
                outcome = agreed(outcome, theirs, self._params.tolerance)
            before = self._estimates(self._sources[0], first.markets, until_s=allowed.changed_at_s)
            yield Proposal(feed, terms, at_s, first.found.get(feed), before.get(feed), outcome, held)

    def _decided(
        self, by: _Estimated, feed: FeedId, allowed: Allowed, terms: Underlying, at_s: UnixS
    ) -> tuple[MarginChange | Refuse, Held]:
        if feed in by.found:
            return decide(by.found[feed], allowed, terms, at_s=at_s, params=self._params)
        columns = f"closes of {', '.join(by.columns)}"
        missing = Refuse(Reason("data.missing", columns, f"a column named {feed}", feed))
        return by.refused.get(feed, missing), ()

    def _estimated(self, source: Prices, standing: Standing) -> _Estimated:
        """Estimate what a source bears."""
        terms = self._market.deployment.rules.underlyings
        closes = source.of([feed for feed in terms if feed in source.assets])
        marks = {feed: mark for feed in closes.assets if (mark := standing.mark(feed)) is not None}
        refused = dict(unsound(closes, self._params.policy, now_s=standing.at_s, marks=marks))
        markets = {
            feed: Market(standing.largest(feed), self._volumes_day.get(feed))
            for feed in closes.assets
            if feed not in refused
        }
        return _Estimated(self._estimates(closes, markets), refused, markets, source.assets)

    def _estimates(
        self, closes: Prices, markets: Mapping[FeedId, Market], until_s: UnixS | None = None
    ) -> dict[FeedId, Estimate]:
        """Estimate the margins of some underlyings; by the closes up to a time, where these are enough."""
        used, policy = closes.of(list(markets)), self._params.policy
        if until_s is not None:
            used = used.until(until_s)
        if not markets or len(used.times) * closes.step_s < policy.least_returns * policy.horizon_s:
            return {}
        return {each.asset: each for each in estimate(used, policy, markets)}

    async def _accounts(self, head: Head) -> tuple[Account, ...]:
        """Find every account that an event names, and read it at a head."""
        keys = dict[AccountKey, None]()
        async for part in self._reader.search(self._from_block, head.number):
            for log in part.logs:
                fact = self._market.decode(log)
                keys.update(dict.fromkeys(fact.touched) if fact else {})
        named = list(keys)
        calls = [self._market.rows_call(named[at : at + PAGE]) for at in range(0, len(named), PAGE)]
        pages = await self._reader.call_many(calls, head.hash)
        return tuple(account for page in pages for account in accounts_of(page))


def signed_call(change: MarginChange, stewardship: Stewardship, keys: Sequence[bytes], chain_id: int) -> Call:
    """Have a change signed with every key, and build the transaction that publishes it."""
    at = stewardship.address
    signatures = [sign_margins(key, change, steward=at, chain_id=chain_id) for key in keys]
    return change_margins_call(at, change, signatures)
