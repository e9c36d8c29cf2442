"""Perpetual v2 as the pipeline sees it: one deployment, judged by the contract's own integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from keeper.domain import QUOTE, Act, Call, Fact, Log, Quote, Reason, Refuse, TakeOver, Unknown
from keeper.errors import InvariantBroken
from keeper.lending import flash
from keeper.lending.words import FlashTakeOver, Sight
from keeper.ports import Margin, Offer, Takeover
from keeper.protocols.perp_curie import codec, math
from keeper.protocols.perp_curie.codec import MarketView, PerpWorld
from keeper.protocols.perp_curie.math import MILLION, Market, Trader, Unmet
from keeper.protocols.perp_curie.params import Deployment, read_feeds
from keeper.protocols.perp_curie.rows import FLAGS, Account, PerpRows, why_barred
from keeper.remedies import Do, Mend
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad, mul_div_down

DAY_S: Final = 86_400
UNREAD_S: Final = 2_400
"""How long funding may have accrued unread: before that, an account with a position is read again."""
MOST: Final = 2**128 - 1
"""A deposit of more is none."""
ROUNDING: Final = 1e-6
"""A value is cut to the units of the settlement token."""


class PerpCurieMarket:
    """Implements ``ports.PerpMarket`` for one deployment."""

    drifts: Final[bool] = True

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    @property
    def shape(self) -> PerpRows:
        """Of what its accounts are made, with a column for every market."""
        return PerpRows(self.deployment.bases)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The contracts whose logs ``decode`` understands."""
        return (self.deployment.clearing_house, self.deployment.vault)

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed of a market, each once."""
        return tuple(dict.fromkeys(feed for feed in self.deployment.feeds if feed is not None))

    @property
    def untraced(self) -> tuple[str, ...]:
        """The markets whose mark is the chain's alone, each with the reason."""
        return tuple(f"market {base}: its index names no pair" for base in self.deployment.unnamed)

    @property
    def version(self) -> int:
        """The ``PerpWorld.version`` at which the feeds were read."""
        return self.deployment.version

    def refresh(self) -> Generator[list[Call], list[bytes], PerpCurieMarket]:
        """Find out the feeds anew."""
        return PerpCurieMarket((yield from read_feeds(self.deployment)))

    def rows_call(self, accounts: Sequence[AccountKey]) -> Call:
        """Ask for the exact state of many accounts; ``shape`` reads it."""
        return codec.rows_call(self.deployment, accounts)

    def prices_call(self) -> Call:
        """Ask for all markets, and what holds for all of them."""
        return codec.world_call(self.deployment)

    def decode_prices(self, answer: bytes) -> PerpWorld:
        """Read what the chain says of the markets and of itself."""
        return codec.decode_world(answer, self.deployment)

    def marks(self, world: PerpWorld, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Marks:
        """Mark the columns so that a breach at the chain's mark, or at the fast one, is a suspicion.

        The value is the chain's mark c. At the fast mark f a long is worth less by c - f, a short by f - c,
        and either must have m f. To require |c - f| + m f, or m c where that is more, suspects none too few,
        and too many only where long and short of one account offset each other. On top comes the funding
        that may have accrued since the account was read.
        """
        del at_s
        chain = [market.mark_wad or np.nan for market in world.markets]
        fast = [market.mark_wad or np.nan for market in self.fast(world, quotes).markets]
        value, moved = np.array(chain, float) / WAD, np.array(fast, float) / WAD
        share = world.terms.maintenance / MILLION
        funding = world.funding_rate / MILLION * UNREAD_S / DAY_S
        gross = np.maximum(value * share, np.abs(value - moved) + moved * share)
        return Marks(
            value=value,
            gross=gross + funding * np.maximum(value, moved),
            levels=np.ones(FLAGS),
            absolute=ROUNDING,
        )

    def worths(self, world: PerpWorld, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Floats:
        """Return the mark of every market as it would be were the index at the fast price."""
        return self.marks(self.fast(world, quotes), {}, at_s).value

    def spots(self, world: PerpWorld) -> Mapping[FeedId, Wad]:
        """Return the index of every feed; of several markets of one feed that of the first."""
        found = {feed: self.index_wad(feed, world) for feed in sorted(self.feeds)}
        return {feed: price_wad for feed, price_wad in found.items() if price_wad}

    def decode(self, log: Log) -> Fact | None:
        """Say what a log of this deployment means; None for one that changes no account."""
        return codec.decode(log, self.deployment)

    def encode(self, act: Act) -> Call:
        """Build the calldata of a takeover."""
        if isinstance(act, FlashTakeOver):
            return flash.takeover_call(act, self.deployment.clearing_house, self.deployment.token)
        if not isinstance(act, TakeOver):
            raise InvariantBroken(f"Perpetual knows no {type(act).__name__}")
        return codec.encode(act, self.deployment)

    def explain(self, reverted: Refuse) -> Refuse:
        """Put the contract's own words in the place of a refusal's revert data."""
        reason = reverted.reason
        if not reason.evidence.startswith("0x"):
            return reverted
        data = bytes.fromhex(reason.evidence[2:])
        words = flash.revert_name(data) or codec.revert_words(data)
        return Refuse(Reason(reason.rule, words, reason.bound))

    # --- what its desk asks besides ---

    def fast(self, world: PerpWorld, quotes: Mapping[FeedId, Quote | Unknown]) -> PerpWorld:
        """Return the world with every mark as it would be were the index at the fast price."""
        feeds = zip(world.markets, self.deployment.feeds, strict=True)
        return replace(world, markets=tuple(_moved(market, feed, quotes) for market, feed in feeds))

    def sights(
        self, account: Account, world: PerpWorld, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> tuple[Sight, ...]:
        """Return the index of each of its markets that are open and have a feed, as both clocks have it."""
        found = []
        for number in account.trader.positions:
            market, feed = world.markets[number], self.deployment.feeds[number]
            if feed is not None and market.is_open:
                quote = quotes.get(feed)
                fast_wad = quote.price_wad if isinstance(quote, Quote) else None
                found.append(Sight(feed, fast_wad, market.index_wad, market.updated_at_s))
        return tuple(found)

    def unseen(self, account: Account, world: PerpWorld) -> tuple[str, ...]:
        """Name its markets that have no feed, and are open: of others the contract has fixed the price."""
        bases, feeds = self.deployment.bases, self.deployment.feeds
        blind = (number for number in account.trader.positions if feeds[number] is None)
        return tuple(f"market {bases[number]}" for number in blind if world.markets[number].is_open)

    def index_wad(self, feed: FeedId, world: PerpWorld) -> Wad | None:
        """Return the index price that a market of a feed has now."""
        found = zip(self.deployment.feeds, world.markets, strict=True)
        return next((market.index_wad for name, market in found if name == feed and market.index_wad), None)

    def stand(self, account: Account, world: PerpWorld) -> Margin | Unknown:
        """Return an account's value and what it must be, equal to the contract's view of the same block."""
        lacking = self._lacking(account, world)
        if lacking:
            return lacking
        found = math.health(account.trader, _markets(world), world.terms)
        return Margin(found.value_wad, found.required_wad)

    def free_wad(self, account: Account, world: PerpWorld) -> Wad | Unknown:
        """Return what an account has beyond its initial margin (Vault.getFreeCollateralByRatio)."""
        lacking = self._lacking(account, world)
        return lacking or math.free_wad(account.trader, _markets(world), world.initial)

    def mends(self, account: Account, world: PerpWorld) -> tuple[Mend, ...]:
        """Return what its owner can do: deposit the settlement token, or close some of a position.

        At the mark: what closing costs in the pool is not counted.
        """
        trader, terms, markets = account.trader, world.terms, _markets(world)

        def deposited(amount: int) -> Account:
            cash_wad = trader.cash_wad + amount * terms.unit_wad
            return replace(account, trader=replace(trader, cash_wad=cash_wad))

        def reduced(number: int, size_wad: Wad) -> Account:
            sign = 1 if trader.positions[number].size_wad > 0 else -1
            return replace(account, trader=math.reduced(trader, number, sign * size_wad, markets))

        gross_wad = (
            sum(abs(each.size_wad) * markets[n].mark_wad for n, each in trader.positions.items()) // WAD
        )
        token, scale = self.deployment.token, max(1, gross_wad // terms.unit_wad // 100)
        deposit = Mend(Do.DEPOSIT, token, terms.decimals, scale, MOST, deposited)
        reductions = (
            Mend(
                Do.REDUCE,
                self.deployment.bases[number],
                18,
                abs(each.size_wad) // 100,
                abs(each.size_wad),
                partial(reduced, number),
            )
            for number, each in trader.positions.items()
            if markets[number].is_open and each.size_wad
        )
        return (deposit, *reductions)

    def offers(self, account: Account, world: PerpWorld) -> tuple[Offer, ...]:
        """Return what the contract lets be taken of each position in an open market, the most worth first."""
        markets, trader = _markets(world), account.trader
        most = {
            number: math.most(trader, number, markets, world.terms)
            for number in trader.positions
            if markets[number].is_open
        }
        order = sorted(most, key=lambda number: -abs(most[number]) * markets[number].mark_wad)
        return tuple(Offer(self.deployment.bases[number], most[number]) for number in order if most[number])

    def take_over(self, account: Account, offer: Offer, size_wad: Wad, world: PerpWorld) -> Takeover | Refuse:
        """Return what taking over a size does, 0 meaning the most, or the contract's own refusal."""
        markets = _markets(world)
        if world.paused:
            return _refuse("the protocol is paused", "not paused")
        number = self.deployment.bases.index(offer.market)
        found = math.close(account.trader, number, size_wad, markets, world.terms)
        if isinstance(found, Unmet):
            return _refuse(codec.words_of(found.value), "accepted")
        left = math.health(found.trader, markets, world.terms)
        return Takeover(
            market=offer.market,
            size_wad=found.size_wad,
            notional_wad=found.notional_wad,
            reward_wad=found.reward_wad,
            margin=Margin(left.value_wad, left.required_wad),
        )

    @property
    def markets(self) -> tuple[str, ...]:
        """The virtual tokens of its markets."""
        return tuple(self.deployment.bases)

    def size_wad(self, account: Account, market: str) -> Wad:
        """Return the size of an account's position in a market, with its sign; 0 where it has none."""
        position = account.trader.positions.get(self.deployment.bases.index(market))
        return position.size_wad if position else 0

    def taken(self, taker: Account, takeover: Takeover) -> Account:
        """Return the account of whoever takes over, as it is afterwards."""
        number = self.deployment.bases.index(takeover.market)
        paid_wad = takeover.reward_wad - takeover.notional_wad
        return replace(taker, trader=math.taken(taker.trader, number, takeover.size_wad, paid_wad))

    def margin_wad(self, takeover: Takeover, world: PerpWorld) -> Wad:
        """Return what an empty account has to deposit for a takeover: its initial margin, less its reward."""
        after = self.taken(Account(bytes(32), Trader(0, {})), takeover).trader
        return -min(0, math.free_wad(after, _markets(world), world.initial))

    def gained(self, logs: Sequence[Log], own: Collection[str]) -> Counter[str]:
        """Return what a transaction brought some traders: sizes by market, and money under ``QUOTE``, WAD.

        What was paid for a size is less the reward that comes with it.
        """
        gained = Counter[str]()
        for log in logs:
            fact = self.decode(log)
            if fact and fact.act == "PositionChanged" and fact.args["trader"].lower() in own:
                gained[fact.args["baseToken"].lower()] += fact.args["exchangedPositionSize"]
                gained[QUOTE] += fact.args["exchangedPositionNotional"] - fact.args["fee"]
        return gained

    def worth_wad(self, what: str, amount: int, world: PerpWorld) -> Wad | Unknown:
        """Return what money, a size at its mark, or units of the settlement token are worth."""
        if what == QUOTE:
            return amount
        if what == self.deployment.token:
            return amount * world.terms.unit_wad
        known = dict(zip(self.deployment.bases, world.markets, strict=True))
        if what not in known or not known[what].mark_wad:
            return Unknown(what, "it has no mark")
        return mul_div_down(amount, known[what].mark_wad, WAD)

    def unit_wad(self, world: PerpWorld) -> Wad:
        """Return the worth of a unit of the settlement token, in quote."""
        return world.terms.unit_wad

    def _lacking(self, account: Account, world: PerpWorld) -> Unknown | None:
        """Name what an account is not judged for, or the market of it that has no mark."""
        if why := why_barred(account):
            return Unknown(f"trader {account.owner}", why)
        for number in account.trader.positions:
            market = world.markets[number]
            if not market.mark_wad:
                return Unknown(f"market {self.deployment.bases[number]}", "it has no mark")
            if market.is_open and not market.index_wad:
                return Unknown(f"market {self.deployment.bases[number]}", "its index is zero")
        return None


def _moved(market: MarketView, feed: FeedId | None, quotes: Mapping[FeedId, Quote | Unknown]) -> MarketView:
    quote = quotes.get(feed) if feed is not None else None
    if not isinstance(quote, Quote) or not market.is_open or not market.mark_wad:
        return market
    mark_wad = math.mark_wad(market.spot_wad, market.twap_wad, quote.price_wad, market.premium_wad)
    return replace(market, mark_wad=mark_wad)


def _markets(world: PerpWorld) -> Mapping[int, Market]:
    return {number: Market(each.mark_wad, each.is_open) for number, each in enumerate(world.markets)}


def _refuse(evidence: str, bound: str) -> Refuse:
    return Refuse(Reason("takeover.refused", evidence, bound))
