"""HybridMargin as the pipeline sees it: one deployment, judged by the contract's own integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from keeper import abi
from keeper.domain import (
    QUOTE,
    Account,
    Act,
    ArrayView,
    Assessment,
    Bundle,
    Call,
    ChainTime,
    Fact,
    FeedView,
    Globals,
    HybridAct,
    Instrument,
    Log,
    Observation,
    OracleView,
    Phase,
    Quote,
    Reason,
    Refuse,
    Report,
    Unknown,
)
from keeper.errors import InvariantBroken
from keeper.ports import Purchase, SlicePreview
from keeper.protocols.hybrid import arrays, calls, codec, liquidator, math, quorum, signing
from keeper.protocols.hybrid.codec import ArrayPost
from keeper.protocols.hybrid.holdings import described
from keeper.protocols.hybrid.marks import marks_of
from keeper.protocols.hybrid.params import Deployment, Listed, Terms, read_rules
from keeper.protocols.hybrid.portfolio import setting_at
from keeper.protocols.hybrid.rows import HybridRows
from keeper.protocols.hybrid.signing import ArraysToSign
from keeper.remedies import Health, Mend
from keeper.risk import margin
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad, mul_div_down

_UNLISTED: Final = "not listed when the deployment was read"
ASSESSED = 1024
"""Judgements that are kept: those under care, and near to breach, are judged at every tick of a head."""


class _Assessed(NamedTuple):
    """What was found of an account, and of what: all of it frozen, and kept alive by this."""

    account: Account
    oracles: OracleView
    at: ChainTime
    found: Assessment | Unknown


class HybridMarket:
    """Implements ``ports.Market`` for one deployment."""

    drifts: Final[bool] = False

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._rules = deployment.rules
        self._assessed: dict[tuple[AccountKey, int], _Assessed] = {}
        """By account and view of the oracles."""
        self._marked: tuple[OracleView, UnixS, tuple[Instrument, ...]] | None = None
        """The instruments of which marks were made last, in the order of the columns."""

    @property
    def market_count(self) -> int:
        """How many markets are listed."""
        return len(self._rules.markets)

    @property
    def shape(self) -> HybridRows:
        """Of what its accounts are made, with a column for every market and collateral listed."""
        order = tuple(at + 1 for at in self._order)
        return HybridRows(len(self._rules.markets), len(self._rules.collaterals), order)

    @property
    def _order(self) -> Sequence[int]:
        """The markets, counted from 0, as their columns lie: those on one underlying side by side."""
        feeds = [market.feed for market in self._rules.markets.values()]
        listed = {feed: at for at, feed in enumerate(dict.fromkeys(feeds))}
        return sorted(range(len(feeds)), key=lambda at: listed[feeds[at]])

    @property
    def addresses(self) -> tuple[str, ...]:
        """The contracts whose logs ``decode`` understands."""
        return self.deployment.contracts

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed of an instrument, each once."""
        return self._rules.feeds

    @property
    def version(self) -> int:
        """The ``Globals.version`` at which the listing was read."""
        return self.deployment.version

    @property
    def flag_levels_wad(self) -> tuple[Wad, ...]:
        """The health below which an account is flagged, 1 + beta_flag, by the slope that its owner chose."""
        rules = self._rules
        first = rules.slopes[rules.default_slope]
        return tuple(WAD + slope.beta_flag_wad for slope in (first, *rules.slopes[1:]))

    def refresh(self) -> Generator[list[Call], list[bytes], HybridMarket]:
        """Find out anew what is listed, and the slopes."""
        return HybridMarket((yield from read_rules(self.deployment)))

    def instruments(self, oracles: OracleView, at_s: UnixS) -> tuple[Instrument, ...]:
        """Return all that is listed on the terms of ``at_s``: market 1 first, then collateral 1 first."""
        terms = self._rules.at(at_s)
        markets = (_instrument(market, terms, oracles) for market in terms.markets.values())
        collaterals = (Instrument(each.feed, each.h_mm_wad) for each in terms.collaterals.values())
        return (*markets, *collaterals)

    def feeds_of(self, account: Account) -> tuple[FeedId, ...]:
        """Every feed that an account's margin hangs on, each once; what is not listed is left out."""
        rules = self._rules
        legs = tuple(leg for leg in account.legs if leg.market in rules.markets)
        holdings = tuple(each for each in account.holdings if each.collateral in rules.collaterals)
        return liquidator.feeds_of(replace(account, legs=legs, holdings=holdings), rules)

    def posted(self, oracles: OracleView, bundles: Mapping[FeedId, Bundle], at: ChainTime) -> OracleView:
        """Return what the chain says of prices once bundles were posted in block ``at``."""
        return quorum.posted(oracles, bundles, at.timestamp_s)

    def marks(self, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Marks:
        """Mark the columns of a book at the fast prices, on the terms of ``at_s``.

        At the slow price where the fast one is not known and the contract has the slow one act alone.
        """
        columns, quoted = self._columns(world, at_s), self._quoted(world, quotes, at_s)
        return marks_of(columns, quoted, at_s, self.flag_levels_wad)

    def _columns(self, world: OracleView, at_s: UnixS) -> tuple[Instrument, ...]:
        """Return the instruments as their columns lie; between two heads they stay the same."""
        if self._marked is None or self._marked[0] is not world or self._marked[1] != at_s:
            listed = self.instruments(world, at_s)
            columns = (*(listed[at] for at in self._order), *listed[self.market_count :])
            self._marked = world, at_s, columns
        return self._marked[2]

    def _quoted(
        self, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS
    ) -> Mapping[FeedId, Quote | Unknown]:
        """Return the quotes, and the slow prices that act alone."""
        alone = [
            view
            for feed in self.feeds
            for view in [world[feed]]
            if not isinstance(quotes.get(feed), Quote) and view.slow_alone(at_s)
        ]
        slow = {view.feed: Quote(view.feed, view.slow_wad, view.slow_updated_at_s) for view in alone}
        return {**quotes, **slow}

    def worths(self, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Floats:
        """Return what one unit of each column is worth: of collateral its price, without a haircut."""
        whole = [replace(each, value_wad=WAD) for each in self._columns(world, at_s)]
        return marks_of(whole, self._quoted(world, quotes, at_s), at_s).value

    def described(
        self, world: OracleView, at_s: UnixS, *, collateral: bool = True
    ) -> Iterator[tuple[int, margin.Instrument]]:
        """Yield the place and the description of every column that hangs on a price, for the risk engine."""
        return described(self._columns(world, at_s), at_s, collateral=collateral)

    def spots(self, world: OracleView) -> Mapping[FeedId, Wad]:
        """Return the newer price of every feed on chain that counts."""
        told = {feed: _newest_wad(world[feed]) for feed in sorted(self.feeds)}
        return {feed: price_wad for feed, price_wad in told.items() if price_wad}

    def decode(self, log: Log) -> Fact | None:
        """Say what a log of this deployment means; None for one that concerns no account and no price."""
        return codec.decode(log, self.deployment)

    def encode(self, act: Act) -> Call:
        """Build the calldata of an act, with the reports that it is to post first."""
        if not isinstance(act, HybridAct):
            raise InvariantBroken(f"HybridMargin knows no {type(act).__name__}")
        return codec.encode(act, self.deployment)

    def batch(self, calls: Sequence[Call]) -> Call | None:
        """Build the call that carries out several acts by themselves; None where they cannot go together."""
        return codec.batch_call(calls, self.deployment)

    def rows_call(self, keys: Sequence[AccountKey]) -> Call:
        """Ask for the exact state of many accounts; ``shape`` reads it."""
        return codec.rows_call(self.deployment.reader, keys)

    def prices_call(self) -> Call:
        """Ask for both prices of every feed, all risk arrays, and what the protocol says of itself."""
        return codec.world_call(self.deployment.reader, self._rules)

    def decode_prices(self, answer: bytes) -> OracleView:
        """Read what the chain says of prices and of itself."""
        return codec.decode_world(answer, self.deployment)

    def credit_call(self, holder: str) -> Call:
        """Ask for a holder's quote credit, from which bonds are paid."""
        return codec.credit_call(self.deployment.vault, self.deployment.quote, holder)

    @property
    def fast_domain(self) -> tuple[int, str]:
        """What a report is bound to: the chain's id and the oracle's address."""
        return self.deployment.chain_id, self.deployment.fast_oracle

    def sign_report(self, observation: Observation, key: bytes) -> Report:
        """Sign one observation with one reporter's key."""
        domain = self.deployment
        return signing.sign_report(key, observation, fast_oracle=domain.fast_oracle, chain_id=domain.chain_id)

    def read_report(self, observation: Observation, signature: bytes) -> Report | None:
        """Find out who signed an observation for this oracle; None where the signature is none."""
        domain = self.deployment
        return signing.read_report(
            observation, signature, fast_oracle=domain.fast_oracle, chain_id=domain.chain_id
        )

    def resigned(self, log: Log) -> bool:
        """Tell whether a log says that other reporters may sign from now on."""
        return codec.resigned(log, self.deployment)

    def post_call(self, bundles: Sequence[Bundle]) -> Call:
        """Post those bundles that are newer than what the chain has."""
        return codec.post_newer_call(self.deployment.fast_oracle, bundles)

    def sign_arrays(self, post: ArraysToSign, key: bytes) -> bytes:
        """Sign a post of risk arrays with one reporter's key."""
        at, chain_id = self.deployment.risk_arrays, self.deployment.chain_id
        return signing.sign_risk_arrays(
            key, post.arrays, post.valid_until_s, risk_arrays=at, chain_id=chain_id
        )

    def post_arrays_call(self, post: ArrayPost, signatures: Sequence[bytes]) -> Call:
        """Post the risk arrays that a quorum signed together."""
        return codec.post_arrays_call(self.deployment.risk_arrays, post, signatures)

    def settle_call(self, feed: FeedId, expiry_s: UnixS) -> Call:
        """Fix the settlement price of all options of one expiry."""
        return codec.settle_expiry_call(self.deployment.risk_arrays, feed, expiry_s)

    def broken_bound(self, market: int, array: ArrayView, at_s: UnixS) -> Reason | None:
        """Say which of the contract's bounds a risk array breaks on the terms of ``at_s``, if any."""
        terms = self._rules.at(at_s)
        listed = terms.markets[market]
        return arrays.broken_bound(array, listed, terms.risks[listed.feed].mmr_wad)

    def gained(self, logs: Sequence[Log], own: Collection[str]) -> Counter[str]:
        """Return what a transaction brought some owners: money under ``QUOTE``, collateral by its token, WAD.

        Fees of slices, what the insurance adds, rewards of alarms, collateral bought; bonds count where they
        are lost. Positions are taken over at their mark, and change nothing.
        """
        gained = Counter[str]()
        for log in logs:
            if moved := codec.credit_moved(log, self.deployment):
                token, giver, taker, wad = moved
                is_reward = (token, giver) == (self.deployment.quote, self.deployment.clearing)
                gained[QUOTE] += wad if is_reward and taker in own else 0
            elif fact := codec.decode(log, self.deployment):
                gained.update(self._gain(fact, own))
        return gained

    def _gain(self, fact: Fact, own: Collection[str]) -> Mapping[str, int]:
        args = fact.args
        match fact.act:
            case "Tranche" if _owner(args["taker"]) in own:
                return {QUOTE: mul_div_down(args["fee_wad"], liquidator.TAKER_SHARE_WAD, WAD)}
            case "InsurancePaid" if _owner(args["taker"]) in own:
                return {QUOTE: args["amount_wad"]}
            case "BondSettled" if args["flagger"].lower() in own:
                return {QUOTE: -args["slashed_wad"]}
            case "CollateralSold" if args["buyer"].lower() in own:
                token = self._rules.collaterals[args["collateral"]].token
                return {token: args["amount_wad"], QUOTE: -args["paid_wad"]}
        return {}

    def sliced_wad(self, logs: Sequence[Log], own: Collection[str]) -> Wad | None:
        """Return the notional that some owners took over in slices, by the contract; None without any."""
        facts = (codec.decode(log, self.deployment) for log in logs)
        taken = [
            fact.args["notional_wad"]
            for fact in facts
            if fact and fact.act == "Tranche" and _owner(fact.args["taker"]) in own
        ]
        return sum(taken) if taken else None

    def worth_wad(self, what: str, amount: int, world: OracleView) -> Wad | Unknown:
        """Return what money or a collateral is worth at the slow price, else at the fast one."""
        if what == QUOTE:
            return amount
        feeds = [each.feed for each in self._rules.collaterals.values() if each.token == what]
        price_wad = next((world[feed].slow_wad or world[feed].fast_wad for feed in feeds), 0)
        return mul_div_down(amount, price_wad, WAD) if price_wad else Unknown(what, "it has no price")

    def explain(self, refusal: Refuse) -> Refuse:
        """Put the contract's own words in the place of a refusal's revert data."""
        return abi.explained(refusal, codec.revert_name)

    def assess(self, account: Account, oracles: OracleView, at: ChainTime) -> Assessment | Unknown:
        """Judge one account as the contract would in block ``at``.

        What concerns the slope is foreseen as if the account were confirmed in that block, where it is not
        confirmed yet. Fee and closeable fraction are those after the sale of collateral and the fee cap that
        a slice begins with. What it has found of the same account, view and block it does not seek anew.
        """
        key = account.key, id(oracles)
        known = self._assessed.get(key)
        if known is not None and known.account is account and known.oracles is oracles and known.at == at:
            return known.found
        if len(self._assessed) >= ASSESSED:
            self._assessed.clear()
        found = self._assess(account, oracles, at)
        self._assessed[key] = _Assessed(account, oracles, at, found)
        return found

    def _assess(self, account: Account, oracles: OracleView, at: ChainTime) -> Assessment | Unknown:
        lacking = self._lacking(account, oracles)
        if lacking:
            return lacking
        look = liquidator.outlook(account, oracles, at, self._rules)
        sight, tightest = look.sight, look.tightest
        return Assessment(
            account=account,
            at=at,
            fast=look.found.fast,
            slow=look.found.slow,
            execution=look.found.execution,
            feeds=liquidator.feeds_of(account, look.setting.terms),
            fresh=sight.fresh,
            flag_level_wad=WAD + look.slope.beta_flag_wad,
            tau_s=look.flag.tau_s,
            since_confirmation_s=look.since_confirmation_s,
            q_wad=look.q_wad,
            fee_wad=look.kappa_wad,
            closeable_wad=look.closeable_wad,
            step_room_wad=look.step_room_wad,
            least_q_wad=look.slope.q_min_wad,
            fast_fresh=sight.fast,
            earliest_alarm=liquidator.earliest_alarm(account),
            bond_wad=liquidator.bond_wad(look.found.fast),
            reward_wad=_reward(account, look),
            curable=_in_episode(account)
            and liquidator.is_curable(look.found, look.slope, priced=sight.priced),
            expirable=account.phase is Phase.FLAGGED and liquidator.is_expirable(look.flag, at.timestamp_s),
            slope=look.flag.slope,
            slow_only=sight.slow_only,
            arrays_silent=sight.arrays_silent,
            breaker_level=oracles.world.breaker_level,
            slices_halted=look.halted,
            bucket_room_wad=min(WAD, tightest.part_wad) if tightest else WAD,
            bucket_feed=tightest.feed if tightest else "",
            incentive_wad=_incentive(look, oracles.world),
            incentive_most_wad=min(liquidator.risk_wad(look), oracles.world.drawable_wad),
            incentive_step_wad=liquidator.incentive_step_wad(look),
            settlable=tuple(leg.market for leg in account.legs if leg.market in oracles.settlements),
            smallest_wad=liquidator.smallest_wad(look),
            exposures=tuple(
                liquidator.exposures(look.sold.account, look.prices.execution, look.setting).items()
            ),
        )

    def measured(self, account: Account, oracles: OracleView, at: ChainTime) -> Health:
        """Return how health is measured: equity over the flag level times the requirement, at p_F."""
        setting = setting_at(self._rules, oracles, at.timestamp_s)
        feeds = [each for each in self._rules.feeds if each in oracles]
        prices = liquidator.prices_of(feeds, oracles, 0, at.timestamp_s)
        level_wad = WAD + setting.terms.slope_of(account).beta_flag_wad

        def health(account: Account) -> tuple[int, int]:
            found = math.maintenance(account, prices.fast, setting)
            return found.equity_wad * WAD, found.requirement_wad * level_wad

        return health

    def mends(self, account: Account, oracles: OracleView, at: ChainTime) -> tuple[Mend, ...] | Unknown:
        """Return what its owner can do: deposit quote or collateral, or reduce every position alike."""
        if lacking := self._lacking(account, oracles):
            return lacking
        setting = setting_at(self._rules, oracles, at.timestamp_s)
        return calls.mends(account, setting, oracles, self.deployment.quote, at.timestamp_s)

    def preview(
        self, target: Assessment, taker: Account, oracles: OracleView, max_fraction_wad: Wad
    ) -> SlicePreview | Refuse:
        """Compute, to the wei, what one slice would do in block ``target.at``; refuse where it would revert.

        A taker below its initial margin is not refused but told by ``taker_passes``.
        """
        unpriced = self._lacking(target.account, oracles) or self._lacking(taker, oracles)
        if unpriced:
            return liquidator.refuse("oracle.unknown", f"{unpriced.what}: {unpriced.why}", "a price")
        slice_ = liquidator.liquidate(
            target.account, taker, oracles, target.at, self._rules, max_fraction_wad=max_fraction_wad
        )
        if isinstance(slice_, Refuse):
            return slice_
        return SlicePreview(
            fraction_wad=slice_.fraction_wad,
            notional_wad=slice_.notional_wad,
            taker_fee_wad=slice_.fee.taker_wad + slice_.fee.from_insurance_wad,
            taker_mark_wad=slice_.taker_mark_wad,
            taker_after=slice_.taker,
            taker_passes=not slice_.taker_margin.breaches(),
            oracles_after=slice_.oracles,
            before=slice_.before,
            after=slice_.after,
            takes=slice_.takes,
        )

    def exposures(self, account: Account, oracles: OracleView, at: ChainTime) -> Mapping[FeedId, Wad]:
        """Return what an account's positions come to on each feed, at the fast price; short is below 0."""
        setting = setting_at(self._rules, oracles, at.timestamp_s)
        prices = liquidator.prices_of(self.feeds_of(account), oracles, 0, at.timestamp_s)
        return liquidator.exposures(account, prices.fast, setting)

    def purchase(
        self, account: Account, oracles: OracleView, at: ChainTime, max_quote_wad: Wad
    ) -> Purchase | Refuse:
        """Compute what buying the first collateral of an account that has only debt would bring."""
        unpriced = self._lacking(account, oracles)
        if unpriced:
            return liquidator.refuse("oracle.unknown", f"{unpriced.what}: {unpriced.why}", "a price")
        return liquidator.purchase(account, oracles, at, self._rules, max_quote_wad=max_quote_wad)

    def _lacking(self, account: Account, oracles: OracleView) -> Unknown | None:
        """Name what the deployment did not list when it was read, or a feed without a view."""
        rules = self._rules
        slope = max(account.flag.slope, account.slope_choice)
        if slope >= len(rules.slopes):
            return Unknown(f"slope {slope}", _UNLISTED)
        for leg in account.legs:
            if leg.market not in rules.markets:
                return Unknown(f"market {leg.market}", _UNLISTED)
        for holding in account.holdings:
            if holding.collateral not in rules.collaterals:
                return Unknown(f"collateral {holding.collateral}", _UNLISTED)
        for feed in liquidator.feeds_of(account, rules):
            if feed not in oracles:
                return Unknown(feed, "no view of its two prices")
        return None


def _instrument(market: Listed, terms: Terms, oracles: OracleView) -> Instrument:
    risk = terms.risks[market.feed]
    return Instrument(
        market.feed,
        kind=market.kind,
        range_wad=risk.mmr_wad,
        short_wad=risk.short_min_wad,
        strike_wad=market.strike_wad,
        expiry_s=market.expiry_s,
        array=oracles.arrays.get(market.market),
        settlement_wad=oracles.settlements.get(market.market),
    )


def _newest_wad(view: FeedView) -> Wad:
    """Return the newer of both prices that counts, 0 where neither does."""
    is_fast = view.fast_ok and (view.fast_observed_at_s > view.slow_updated_at_s or not view.slow_ok)
    return view.fast_wad if is_fast and view.fast_wad else view.slow_wad if view.slow_ok else 0


def _in_episode(account: Account) -> bool:
    return account.phase in {Phase.FLAGGED, Phase.CONFIRMED}


def _reward(account: Account, look: liquidator.Outlook) -> Wad:
    """Return what a confirmation would still pay; it pays once an episode."""
    paid = account.phase is Phase.CONFIRMED
    return 0 if paid else liquidator.reward_wad(look.flag, look.found.execution)


def _incentive(look: liquidator.Outlook, world: Globals) -> Wad:
    """Return what the insurance would pay for the whole of an account that has nothing left."""
    if not look.insured:
        return 0
    offered = liquidator.incentive_wad(look, WAD, look.sold.execution.notional_wad)
    return min(offered, world.drawable_wad)


def _owner(account: AccountKey) -> str:
    return "0x" + account[:20].hex()
