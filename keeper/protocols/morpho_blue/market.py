"""Morpho Blue as the pipeline and the lending desk see it: markets that were named, in exact integers."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from keeper import abi
from keeper.domain import Act, Call, ChainTime, Fact, Log, Quote, Reason, Refuse, Unknown
from keeper.errors import InvariantBroken
from keeper.lending import flash, tokens
from keeper.lending.feeds import QUOTE, fast_prices, spots
from keeper.lending.flash import Kind
from keeper.lending.words import By, Close, Repay, Sight, Standing, Sweep, Way
from keeper.protocols.morpho_blue import codec, math, oracles
from keeper.protocols.morpho_blue.math import PreTerms, Unmet
from keeper.protocols.morpho_blue.params import Listed, Listing, Pre, World, read_listing
from keeper.protocols.morpho_blue.rows import COLLATERAL, SHARES, Loan, MorphoRows
from keeper.remedies import Do, Mend
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad, mul_div_down

ROUNDING: Final = 4.0
"""Units of the loan: a debt is rounded up once, and what a collateral allows is rounded down twice."""
MOST: Final = 2**128 - 1
"""A supply of more is none."""
PLAIN_GAS: Final = 220_000
PRE_GAS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Found:
    """An account with all that it is judged by, interest included."""

    listed: Listed
    market: math.Market
    position: math.Position
    agreed: Mapping[str, tuple[Pre, PreTerms]]
    """The pre-liquidation contracts that its owner authorised and whose price is known, by address."""

    @property
    def health_wad(self) -> Wad | None:
        """What its collateral allows over what it owes, by the limit that is met first."""
        return self.health_after_wad(self.position, self.market)

    def health_after_wad(self, position: math.Position, market: math.Market) -> Wad | None:
        """Return the same of what a closing leaves; None where that owes nothing."""
        limits = (
            replace(market, lltv_wad=terms.lltv_wad, price=terms.price) for _, terms in self.agreed.values()
        )
        owed = math.owed(market, position.borrow_shares)
        allowed = min(math.health(position, each).allowed for each in (market, *limits))
        return mul_div_down(allowed, WAD, owed) if owed else None


class MorphoMarket:
    """Implements ``ports.LendingMarket`` for the markets of one Morpho Blue that the keeper was told of."""

    drifts: Final[bool] = False
    version: Final[int] = 0
    """Nothing of a market that is listed ever changes."""

    def __init__(self, listing: Listing, unlisted: dict[str, None] | None = None) -> None:
        self.listing = listing
        self.unlisted: dict[str, None] = {} if unlisted is None else unlisted
        """Ids of markets that somebody borrowed from and that are not listed, in the order met."""

    @property
    def shape(self) -> MorphoRows:
        """Of what its accounts are made: one owner in one market."""
        return MorphoRows(self.listing.places, self.listing.mark)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Morpho, and the pre-liquidation contracts."""
        return (self.listing.chosen.morpho, *self.listing.pres)

    @property
    def tokens(self) -> tuple[str, ...]:
        """What is lent and what is taken as collateral, each once."""
        markets = self.listing.markets
        return tuple(dict.fromkeys(token for each in markets for token in (each.loan, each.collateral)))

    @property
    def receipts(self) -> Mapping[str, str]:
        """None: tokens are seized themselves."""
        return {}

    @property
    def spending(self) -> tuple[tuple[str, str], ...]:
        """Every token that is lent, with Morpho and each pre-liquidation contract that takes it."""
        morpho = self.listing.chosen.morpho
        return tuple(
            dict.fromkeys(
                (each.loan, taker)
                for each in self.listing.markets
                for taker in (morpho, *(pre.address for pre in each.pres))
            )
        )

    @property
    def untraced(self) -> tuple[str, ...]:
        """The oracles and feeds whose own price stands at both clocks, each with the reason."""
        return self.listing.untraced

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed of an oracle that is traced, and what values loan tokens."""
        named = (*(feed.feed for feed in self.listing.feeds), *self.listing.chosen.tokens.values())
        return tuple(dict.fromkeys(feed for feed in named if feed != QUOTE))

    def refresh(self) -> Generator[list[Call], list[bytes], MorphoMarket]:
        """Find out anew what is fixed of the same markets."""
        return MorphoMarket((yield from read_listing(self.listing.chosen)), self.unlisted)

    # --- between bytes and words ---

    def decode(self, log: Log) -> Fact | None:
        """Say what a log means; a market that is not listed is only noted."""
        fact = codec.decode(log, self.listing)
        if fact is None and (name := codec.borrowed_elsewhere(log, self.listing)):
            self.unlisted.setdefault(name)
        return fact

    def rows_call(self, accounts: Sequence[AccountKey]) -> Call:
        """Ask for the exact state of many accounts; ``shape`` reads it."""
        return codec.rows_call(accounts, self.listing)

    def prices_call(self) -> Call:
        """Ask for every market, the price of every oracle and the answer of every feed."""
        return codec.world_call(self.listing)

    def decode_prices(self, answer: bytes) -> World:
        """Read what the chain says of them."""
        return codec.decode_world(answer, self.listing)

    def encode(self, act: Act) -> Call:
        """Build the calldata of an act."""
        if (own := tokens.encode(act)) is not None:
            return own
        if not isinstance(act, Repay):
            raise InvariantBroken(f"Morpho Blue knows no {type(act).__name__}")
        if act.flash is None:
            return codec.repay_call(act, self.listing)
        is_plain = act.way.venue == self.listing.chosen.morpho
        return flash.flash_call(act, Kind.MORPHO_BLUE if is_plain else Kind.PRE_LIQUIDATION)

    def explain(self, reverted: Refuse) -> Refuse:
        """Put the contract's own words in the place of raw revert data."""
        return abi.explained(reverted, flash.named(codec.revert_name))

    # --- both clocks ---

    def market_of(self, loan: Loan) -> str:
        """Return the id of its market; nothing where that is not listed."""
        listed = self._listed(loan)
        return listed.name if listed else ""

    def carried(self, world: World, at: ChainTime) -> World:
        """Return the world as it will be in block ``at`` if nobody acts."""
        return replace(world, at=at)

    def fast(self, world: World, quotes: Mapping[FeedId, Quote | Unknown]) -> World:
        """Return the world at the fast prices, as far as its oracles are traced."""
        fast = fast_prices(quotes)
        named, paths = self.listing.named, self.listing.paths
        prices = {
            oracle: oracles.fast_price(price, paths[oracle], named, world.heard, fast)
            for oracle, price in world.prices.items()
        }
        return replace(world, prices={oracle: each for oracle, each in prices.items() if each}, fast=fast)

    def marks(self, world: World, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Marks:
        """Mark collateral and shares by market, in units of its loan, so that rounding is the same in all.

        Collateral counts at the lower of both clocks, and by the limit that is met first; a debt is the same
        at both. So whoever is below a limit at either clock is below 1 here.
        """
        clocks = (world, self.fast(world, quotes))
        value, gross = np.zeros((2, 2 * len(self.listing.markets), 2))
        for number, (listed, stored) in enumerate(zip(self.listing.markets, world.stored, strict=True)):
            market = stored.up_to(at_s)
            plain = _least_allowed(clocks, listed.oracle, listed.lltv_wad)
            pres = [_least_allowed(clocks, pre.oracle, pre.lltv_wad) for pre in listed.pres]
            # What has no price cannot be used to close anything; without its own price, nothing can be told.
            classes = slice(2 * number, 2 * number + 2)
            value[classes, COLLATERAL] = plain, np.nan if np.isnan(plain) else np.nanmin([plain, *pres])
            gross[classes, SHARES] = math.debt_per_share(market) if market else np.nan
        levels, quote = np.ones(len(value)), np.repeat(self._loans_worth(clocks[1]), 2)
        return Marks(value, gross, levels, absolute=ROUNDING, quote=quote)

    def worths(self, world: World, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Floats:
        """Return what a unit of collateral and a share of debt are worth, by market; NaN without a price."""
        fast, worths = self.fast(world, quotes), np.empty((2 * len(self.listing.markets), 2))
        loans = self._loans_worth(fast)
        for number, (listed, stored) in enumerate(zip(self.listing.markets, world.stored, strict=True)):
            market, price = stored.up_to(at_s), fast.prices.get(listed.oracle)
            held = np.nan if price is None else price / math.SCALE
            owed = -math.debt_per_share(market) if market else np.nan
            worths[2 * number : 2 * number + 2] = held * loans[number], owed * loans[number]
        return worths

    def spots(self, world: World) -> Mapping[FeedId, Wad]:
        """Return what every feed answered last; of several of one name what the first did."""
        return spots(self.listing.feeds, world.heard)

    def _loans_worth(self, world: World) -> Floats:
        """Return what one unit of each market's loan is worth in quote; NaN where nothing tells."""
        tokens, decimals = self.listing.chosen.tokens, self.listing.decimals
        worths = np.full(len(self.listing.markets), np.nan)
        for number, listed in enumerate(self.listing.markets):
            price_wad = self._price_wad(tokens[listed.loan], world) if listed.loan in tokens else None
            if price_wad is not None and listed.loan in decimals:
                worths[number] = price_wad / WAD / 10 ** decimals[listed.loan]
        return worths

    def sights(self, loan: Loan, world: World, quotes: Mapping[FeedId, Quote | Unknown]) -> tuple[Sight, ...]:
        """Return what both clocks say of the feeds of its oracles."""
        listed = self._listed(loan)
        if listed is None:
            return ()
        sources = (listed.oracle, *(pre.oracle for pre in _authorised(loan, listed)))
        feeds = dict.fromkeys(feed for source in sources for feed in self.listing.paths[source].feeds)
        found = []
        for address in feeds:
            feed, answer = self.listing.named.get(address), world.heard.get(address)
            if feed and answer:
                quote = quotes.get(feed.feed)
                fast_wad = quote.price_wad if isinstance(quote, Quote) else None
                found.append(Sight(feed.feed, fast_wad, answer.price_wad, answer.answered_at_s))
        return tuple(found)

    def unseen(self, loan: Loan, world: World) -> tuple[str, ...]:
        """Name its oracles that are traced to no feed, and feeds of others that nobody knows or hears."""
        listed, paths = self._listed(loan), self.listing.paths
        if listed is None:
            return ()
        sources = (listed.oracle, *(pre.oracle for pre in _authorised(loan, listed)))
        priced = [source for source in sources if source in world.prices]
        oracles_ = (f"oracle {source}" for source in priced if not paths[source].feeds)
        feeds = (feed for source in priced for feed in paths[source].feeds)
        unheard = (f"feed {each}" for each in feeds if not self._is_heard(each, world))
        return tuple(dict.fromkeys((*oracles_, *unheard)))

    def _is_heard(self, feed: str, world: World) -> bool:
        return feed in self.listing.named and feed in world.heard

    # --- one account ---

    def stand(self, loan: Loan, world: World) -> Standing | Unknown:
        """Return how an account stands, by Morpho's own integers."""
        found = self._found(loan, world)
        if isinstance(found, Unknown):
            return found
        owed = math.owed(found.market, loan.borrow_shares)
        debt_wad = self.worth_wad(found.listed.loan, owed, world)
        held = mul_div_down(loan.collateral, found.market.price, math.SCALE)
        collateral_wad = self.worth_wad(found.listed.loan, held, world)
        if isinstance(debt_wad, Unknown):
            return debt_wad
        assert not isinstance(collateral_wad, Unknown)  # the same token
        unmet = None if self.ways(loan, world) else _unmet(found)
        return Standing(found.health_wad, debt_wad, collateral_wad, unmet)

    def ways(self, loan: Loan, world: World) -> tuple[Way, ...]:
        """Return what pre-liquidation takes, the least bonus first, then plain liquidation."""
        found = self._found(loan, world)
        if isinstance(found, Unknown):
            return ()
        listed, position, market = found.listed, found.position, found.market
        ways = []
        for address, (_, terms) in found.agreed.items():
            if _most(found, address):
                bonus_wad = math.pre_incentive_wad(position, market, terms) - WAD
                ways.append(Way(address, listed.loan, listed.collateral, bonus_wad, PRE_GAS, listed.name))
        ways.sort(key=lambda way: way.bonus_wad)
        morpho = self.listing.chosen.morpho
        if _most(found, morpho):
            bonus_wad = math.incentive_wad(listed.lltv_wad) - WAD
            ways.append(Way(morpho, listed.loan, listed.collateral, bonus_wad, PLAIN_GAS, listed.name))
        return tuple(ways)

    def most(self, loan: Loan, way: Way, world: World) -> int:
        """Return the most of the debt that one closing repays."""
        found = self._found(loan, world)
        return 0 if isinstance(found, Unknown) else _most(found, way.venue)

    def close(self, loan: Loan, way: Way, amount: int, world: World) -> Close | Refuse:
        """Return what repaying so much does: by shares, or by all collateral where that ends first."""
        found = self._found(loan, world)
        if isinstance(found, Unknown):
            return Refuse(Reason("morpho.unknown", f"{found.what}: {found.why}", "a known value"))
        seized, shares = _order(found, way.venue, amount)
        closed = _closed(found, way.venue, seized, shares)
        if isinstance(closed, Unmet):
            return Refuse(_reason(closed))
        return Close(
            by=By.SEIZED if seized else By.SHARES,
            asked=seized or shares,
            repaid=closed.repaid,
            seized=closed.seized,
            health_after_wad=found.health_after_wad(closed.position, closed.market),
            is_whole=not (closed.position.borrow_shares and closed.position.collateral),
            bad_debt=closed.bad_debt,
        )

    def sweep(self, loan: Loan, world: World) -> Sweep | None:
        """Return none: whatever an account owes, Morpho closes it by the same act."""
        del loan, world
        return None

    def mends(self, loan: Loan, world: World) -> tuple[Mend, ...]:
        """Return what its owner can do: supply more collateral, or repay some of the debt."""
        found = self._found(loan, world)
        if isinstance(found, Unknown) or not loan.borrow_shares:
            return ()
        market, listed, decimals = found.market, found.listed, self.listing.decimals
        owed = math.owed(market, loan.borrow_shares)

        def supplied(amount: int) -> Loan:
            return replace(loan, collateral=loan.collateral + amount)

        def repaid(amount: int) -> Loan:
            shares = loan.borrow_shares if amount >= owed else math.shares_for(market, amount)
            return replace(loan, borrow_shares=loan.borrow_shares - min(shares, loan.borrow_shares))

        scale, digits = max(1, loan.collateral // 100), decimals.get(listed.collateral, 0)
        return (
            Mend(Do.DEPOSIT, listed.collateral, digits, scale, MOST, supplied),
            Mend(Do.REPAY, listed.loan, decimals.get(listed.loan, 0), max(1, owed // 100), owed, repaid),
        )

    def worth_wad(self, token: str, amount: int, world: World) -> Wad | Unknown:
        """Return what a token is worth: by its own feed, or as collateral by its oracle and the loan's."""
        feed = self.listing.chosen.tokens.get(token)
        if feed is not None:
            price_wad, decimals = self._price_wad(feed, world), self.listing.decimals.get(token)
            if price_wad is None or decimals is None:
                lacks = f"{feed} has no price" if decimals is not None else "it tells no decimals"
                return Unknown(f"token {token}", lacks)
            return mul_div_down(amount, price_wad, 10**decimals)
        for listed in self.listing.markets:
            price = world.prices.get(listed.oracle)
            if listed.collateral == token and price and listed.loan in self.listing.chosen.tokens:
                return self.worth_wad(listed.loan, mul_div_down(amount, price, math.SCALE), world)
        return Unknown(f"token {token}", "the configuration names no feed for it")

    def _price_wad(self, feed: FeedId, world: World) -> Wad | None:
        """Return the fast price where the world is at those, else what the feed answered on chain."""
        if feed == QUOTE:
            return WAD
        heard = (world.heard.get(each.address) for each in self.listing.feeds if each.feed == feed)
        return world.fast.get(feed) or next((each.price_wad for each in heard if each), None)

    def _listed(self, loan: Loan) -> Listed | None:
        number = self.listing.places.get(loan.key[20:])
        return None if number is None else self.listing.markets[number]

    def _found(self, loan: Loan, world: World) -> Found | Unknown:
        """Put together what an account is judged by, at the time of the world."""
        number = self.listing.places.get(loan.key[20:])
        if number is None:
            return Unknown(f"market 0x{loan.key[20:].hex()}...", "it is not listed")
        listed = self.listing.markets[number]
        market, price = world.stored[number].up_to(world.at.timestamp_s), world.prices.get(listed.oracle)
        if market is None or price is None:
            lacks = "its rate model does not answer" if market is None else "its oracle has no price"
            return Unknown(f"market {listed.name}", lacks)
        agreed = {
            pre.address: (pre, PreTerms(pre.lltv_wad, pre.close_wad, pre.incentive_wad, at))
            for pre in _authorised(loan, listed)
            for at in [world.prices.get(pre.oracle)]
            if at is not None
        }
        return Found(listed, replace(market, price=price), loan.position, agreed)


def _authorised(loan: Loan, listed: Listed) -> Sequence[Pre]:
    return [listed.pres[number] for number in loan.authorised if number < len(listed.pres)]


def _least_allowed(clocks: Sequence[World], oracle: str, lltv_wad: Wad) -> float:
    """Return what one unit of collateral allows to owe at the lower of both clocks; NaN without a price."""
    prices = [world.prices.get(oracle) for world in clocks]
    return min(np.nan if price is None else price / math.SCALE * (lltv_wad / WAD) for price in prices)


def _order(found: Found, venue: str, amount: int) -> tuple[int, int]:
    """Return collateral and shares to ask for, one of them 0, that repay no more than an amount."""
    shares = math.shares_for(found.market, amount)
    if venue in found.agreed:
        _, terms = found.agreed[venue]
        # Where it takes none, all that is wanted: the refusal then says why.
        return 0, min(shares, math.pre_most(found.position, found.market, terms) or shares)
    all_seized, all_shares = math.most(found.position, found.market)
    if all_shares:
        return 0, min(shares, all_shares)
    whole = math.close(found.position, found.market, seized=all_seized)
    takes_all = isinstance(whole, math.Close) and whole.repaid <= amount
    return (all_seized, 0) if takes_all else (0, shares)


def _closed(found: Found, venue: str, seized: int, shares: int) -> math.Close | Unmet:
    if venue in found.agreed:
        _, terms = found.agreed[venue]
        return math.pre_close(found.position, found.market, terms, seized=seized, shares=shares)
    return math.close(found.position, found.market, seized=seized, shares=shares)


def _most(found: Found, venue: str) -> int:
    """Return what the largest closing repays, 0 where there is none."""
    debt = math.owed(found.market, found.position.borrow_shares)
    closed = _closed(found, venue, *_order(found, venue, debt))
    return closed.repaid if isinstance(closed, math.Close) else 0


def _unmet(found: Found) -> Reason:
    """Say why no way is open, by the one that is nearest to it."""
    debt = math.owed(found.market, found.position.borrow_shares)
    venues = [*found.agreed, ""]
    refusals = [_closed(found, venue, *_order(found, venue, debt)) for venue in venues]
    told = [each for each in refusals if isinstance(each, Unmet)]
    healthy = {Unmet.PRE_HEALTHY, Unmet.HEALTHY}
    return _reason(next((each for each in told if each not in healthy), Unmet.HEALTHY))


def _reason(unmet: Unmet) -> Reason:
    return Reason("morpho.refuses", unmet.value, "what the contract takes")
