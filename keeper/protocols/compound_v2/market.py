"""A pool of Venus as the pipeline and the lending desk see it, in exact integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from keeper import abi
from keeper.domain import Act, Call, ChainTime, Fact, Log, Quote, Reason, Refuse, Unknown
from keeper.errors import InvariantBroken
from keeper.lending import flash, tokens
from keeper.lending.feeds import QUOTE, fast_prices, spots
from keeper.lending.flash import Kind
from keeper.lending.words import (
    By,
    Close,
    Due,
    Flash,
    Heal,
    Order,
    Repay,
    RepayAll,
    Sight,
    Standing,
    Sweep,
    Way,
)
from keeper.protocols.compound_v2 import codec, math, oracles
from keeper.protocols.compound_v2.math import Health, Pool, Unmet
from keeper.protocols.compound_v2.params import Listing, World, read_listing
from keeper.protocols.compound_v2.rows import Loan, VenusRows
from keeper.remedies import Do, Mend
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad, mul_div_down

MOST: Final = 2**128 - 1
"""A supply of more is none."""
CLOSE_GAS: Final = 600_000
SWEEP_GAS: Final = 240_000
"""Closing a small account, and so much again for each order or market of it."""


class VenusMarket:
    """Implements ``ports.LendingMarket`` for one isolated pool.

    Its dollars are quote. Principal and index of a debt are read as they are stored, so that accounts do not
    drift. Debts in a market whose liquidation is forced are not suspected by themselves.
    """

    drifts: Final[bool] = False

    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    @property
    def shape(self) -> VenusRows:
        """Of what its accounts are made, with two columns for every market listed."""
        return VenusRows(tuple(self.listing.numbers))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The Comptroller, and every vToken."""
        return (self.listing.chosen.comptroller, *self.listing.numbers)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The token of every market, each once."""
        return tuple(dict.fromkeys(market.token for market in self.listing.markets))

    @property
    def spending(self) -> tuple[tuple[str, str], ...]:
        """The token of every market, with the vToken that takes it."""
        return tuple((market.token, market.vtoken) for market in self.listing.markets)

    @property
    def receipts(self) -> Mapping[str, str]:
        """The token that each vToken is redeemed for."""
        return {market.vtoken: market.token for market in self.listing.markets}

    @property
    def untraced(self) -> tuple[str, ...]:
        """The tokens and feeds whose own price stands at both clocks, each with the reason."""
        return self.listing.untraced

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed of a price that is traced."""
        named = (feed.feed for feed in self.listing.feeds)
        return tuple(dict.fromkeys(feed for feed in named if feed != QUOTE))

    @property
    def version(self) -> int:
        """What named markets and oracle when the listing was read."""
        return self.listing.version

    def refresh(self) -> Generator[list[Call], list[bytes], VenusMarket]:
        """Find out anew which markets there are, and what their prices come from."""
        return VenusMarket((yield from read_listing(self.listing.chosen)))

    # --- between bytes and words ---

    def decode(self, log: Log) -> Fact | None:
        """Say what a log means; None for one that changes no account."""
        return codec.decode(log, self.listing)

    def rows_call(self, accounts: Sequence[AccountKey]) -> Call:
        """Ask for the exact state of many accounts; ``shape`` reads it."""
        return codec.rows_call(accounts, self.listing)

    def prices_call(self) -> Call:
        """Ask for every market with its price, and the answer of every feed."""
        return codec.world_call(self.listing)

    def decode_prices(self, answer: bytes) -> World:
        """Read what the chain says of them."""
        return codec.decode_world(answer, self.listing)

    def encode(self, act: Act) -> Call:
        """Build the calldata of an act."""
        if (own := tokens.encode(act)) is not None:
            return own
        match act:
            case Repay(flash=Flash()) if act.by is By.REPAID:
                return flash.flash_call(act, Kind.COMPOUND_V2)
            case Repay() | RepayAll() | Heal():
                return codec.encode(act, self.listing)
        raise InvariantBroken(f"Venus knows no {type(act).__name__}")

    def explain(self, reverted: Refuse) -> Refuse:
        """Put the contract's own words in the place of raw revert data."""
        return abi.explained(reverted, flash.named(codec.revert_name))

    # --- both clocks ---

    def market_of(self, loan: Loan) -> str:
        """Return nothing: all accounts are in one pool."""
        del loan
        return ""

    def carried(self, world: World, at: ChainTime) -> World:
        """Return the world as it will be in block ``at`` if nobody acts: stored as it is."""
        return replace(world, at=at)

    def fast(self, world: World, quotes: Mapping[FeedId, Quote | Unknown]) -> World:
        """Return the world at the fast prices, as far as its prices are traced."""
        fast, named = fast_prices(quotes), self.listing.named
        markets = tuple(
            replace(
                market,
                price=oracles.fast_price(
                    market.price, named.get(listed.feed), world.heard.get(listed.feed), fast
                ),
            )
            for listed, market in zip(self.listing.markets, world.pool.markets, strict=True)
        )
        return replace(world, pool=replace(world.pool, markets=markets))

    def marks(self, world: World, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Marks:
        """Mark vTokens at the lower of both clocks and debts at the higher, in quote.

        A close brings two markets of an account up to date and leaves the others: so debts are taken with the
        interest of the next block, and vTokens at the exchange rate before it.
        """
        count = len(self.listing.markets)
        value, gross = np.zeros((2, 2 * count))
        clock = self.listing.clock(ChainTime(world.at.block + 1, at_s))
        fast = self.fast(world, quotes)
        for number, (market, moved) in enumerate(zip(world.pool.markets, fast.pool.markets, strict=True)):
            low, high = sorted((market.price, moved.price))
            rate, index = market.exchange_rate_wad / WAD, math.accrued(market, clock).borrow_index_wad / WAD
            value[number] = low / WAD * rate * (market.threshold_wad / WAD) / WAD
            gross[count + number] = high / WAD * index / WAD
            if number in world.unpriced:
                value[number] = gross[count + number] = np.nan
        return Marks(value, gross, np.ones(1))

    def worths(self, world: World, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Floats:
        """Return what a vToken and a debt over its index are worth, by market; NaN without a price."""
        count, clock = len(self.listing.markets), self.listing.clock(ChainTime(world.at.block + 1, at_s))
        worths = np.full(2 * count, np.nan)
        for number, market in enumerate(self.fast(world, quotes).pool.markets):
            if number not in world.unpriced:
                price, index = market.price / WAD / WAD, math.accrued(market, clock).borrow_index_wad / WAD
                worths[number] = price * market.exchange_rate_wad / WAD
                worths[count + number] = -price * index
        return worths

    def spots(self, world: World) -> Mapping[FeedId, Wad]:
        """Return what every feed answered last; of several of one name what the first did."""
        return spots(self.listing.feeds, world.heard)

    def sights(self, loan: Loan, world: World, quotes: Mapping[FeedId, Quote | Unknown]) -> tuple[Sight, ...]:
        """Return what both clocks say of the feeds of what it holds and owes."""
        found = []
        for address in dict.fromkeys(self.listing.markets[number].feed for number in _used(loan)):
            feed, answer = self.listing.named.get(address), world.heard.get(address)
            if feed and answer:
                quote = quotes.get(feed.feed)
                fast_wad = quote.price_wad if isinstance(quote, Quote) else None
                found.append(Sight(feed.feed, fast_wad, answer.price_wad, answer.answered_at_s))
        return tuple(found)

    def unseen(self, loan: Loan, world: World) -> tuple[str, ...]:
        """Name the tokens that it holds and owes, and of which no feed is known, or it does not answer."""
        listed = (self.listing.markets[number] for number in _used(loan))
        known = self.listing.named.keys() & world.heard.keys()
        return tuple(dict.fromkeys(f"token {each.token}" for each in listed if each.feed not in known))

    # --- one account ---

    def stand(self, loan: Loan, world: World) -> Standing | Unknown:
        """Return how an account stands, as the Comptroller judges it.

        By markets as they are stored; where it can be closed, with those up to date that this brings up.
        """
        if unknown := self._unknown(loan, world):
            return unknown
        ways, sweep = self.ways(loan, world), self.sweep(loan, world)
        pool = world.pool
        if ways:
            numbers = (self.listing.numbers[ways[0].market], self.listing.numbers[ways[0].venue])
            pool = pool.up_to(self.listing.clock(world.at), *numbers)
        standing = math.health(loan.state, pool)
        unmet = None if ways or sweep else _reason(self._unmet(loan, world))
        return Standing(_health_wad(standing), standing.owed, standing.collateral, unmet)

    def ways(self, loan: Loan, world: World) -> tuple[Way, ...]:
        """Return every debt with every collateral that pays for some of it, the largest close first.

        All take the same of the owner.
        """
        if self._unknown(loan, world):
            return ()
        found = []
        for collateral, debt in _pairs(loan):
            if most := self._most(loan, collateral, debt, world):
                worth = most * world.pool.markets[debt].price
                found.append((worth, self._way(collateral, debt, world.pool)))
        found.sort(key=lambda each: -each[0])
        return tuple(way for _, way in found)

    def most(self, loan: Loan, way: Way, world: World) -> int:
        """Return the most of the debt that one closing repays."""
        if self._unknown(loan, world):
            return 0
        return self._most(loan, self.listing.numbers[way.market], self.listing.numbers[way.venue], world)

    def close(self, loan: Loan, way: Way, amount: int, world: World) -> Close | Refuse:
        """Return what repaying so much does; seized is what the caller's vTokens redeem for afterwards."""
        if unknown := self._unknown(loan, world):
            return Refuse(Reason("venus.unknown", f"{unknown.what}: {unknown.why}", "a known value"))
        collateral, debt = self.listing.numbers[way.market], self.listing.numbers[way.venue]
        clock = self.listing.clock(world.at)
        closed = math.close(loan.state, world.pool, collateral, debt, amount, clock)
        if isinstance(closed, Unmet):
            return Refuse(_reason(closed))
        return Close(
            by=By.REPAID,
            asked=amount,
            repaid=amount,
            seized=_redeemed(closed.pool, collateral, closed.taken[collateral]),
            health_after_wad=_health_wad(math.health(closed.loan, closed.pool)),
            is_whole=debt not in closed.loan.debts or collateral not in closed.loan.held,
        )

    def sweep(self, loan: Loan, world: World) -> Sweep | None:
        """Return how a small account is closed whole: repaid, or healed where nothing pays for that."""
        if self._unknown(loan, world):
            return None
        clock, state = self.listing.clock(world.at), loan.state
        if math.health(state, world.pool).collateral > world.pool.least_collateral:
            return None
        orders = math.orders(state, world.pool, clock)
        whole = math.close_all(state, world.pool, orders, clock)
        if isinstance(whole, math.Close):
            told = tuple(
                Order(self._vtoken(each.collateral), self._vtoken(each.debt), each.amount) for each in orders
            )
            return self._swept(RepayAll(loan.key, told), whole, len(orders))
        healed = math.heal(state, world.pool, clock)
        if isinstance(healed, math.Close):
            return self._swept(Heal(loan.key), healed, len(state.entered))
        return None

    def mends(self, loan: Loan, world: World) -> tuple[Mend, ...]:
        """Return what its owner can do, in units: supply more of a collateral, or repay some of a debt."""
        if self._unknown(loan, world):
            return ()
        pool, state, found = world.pool, loan.state, []

        def supplied(number: int, amount: int) -> Loan:
            more = amount * WAD // pool.markets[number].exchange_rate_wad
            held = {**state.held, number: state.held.get(number, 0) + more}
            return replace(loan, state=replace(state, held=held))

        def repaid(number: int, amount: int) -> Loan:
            left = math.owed(state, pool, number) - amount
            debts = {**state.debts, number: math.Debt(left, pool.markets[number].borrow_index_wad)}
            return replace(loan, state=replace(state, debts={k: v for k, v in debts.items() if v.principal}))

        for number in state.entered:
            market, token = pool.markets[number], self.listing.markets[number].token
            if held := state.held.get(number, 0) * bool(market.threshold_wad):
                scale = max(1, held * market.exchange_rate_wad // WAD // 100)
                found.append(Mend(Do.DEPOSIT, token, 0, scale, MOST, partial(supplied, number)))
        for number in state.debts:
            owed, token = math.owed(state, pool, number), self.listing.markets[number].token
            found.append(Mend(Do.REPAY, token, 0, max(1, owed // 100), owed, partial(repaid, number)))
        return tuple(found)

    def worth_wad(self, token: str, amount: int, world: World) -> Wad | Unknown:
        """Return what a token of the pool, or a vToken, is worth at the pool's own price."""
        for number, listed in enumerate(self.listing.markets):
            market = world.pool.markets[number]
            if number in world.unpriced or token not in {listed.token, listed.vtoken}:
                continue
            if token == listed.vtoken:
                amount = mul_div_down(amount, market.exchange_rate_wad, WAD)
            return mul_div_down(amount, market.price, WAD)
        return Unknown(f"token {token}", "no market of the pool has a price for it")

    def _unknown(self, loan: Loan, world: World) -> Unknown | None:
        """Name a market of an account without a price: the Comptroller would not judge it."""
        for number in loan.state.entered:
            if number in world.unpriced:
                return Unknown(f"market {self._vtoken(number)}", "its oracle has no price")
        return None

    def _most(self, loan: Loan, collateral: int, debt: int, world: World) -> int:
        return math.most(loan.state, world.pool, collateral, debt, self.listing.clock(world.at))

    def _unmet(self, loan: Loan, world: World) -> Unmet:
        """Say why no way is open: what the first close that is not just too early would hear."""
        clock, state = self.listing.clock(world.at), loan.state
        told = [math.close(state, world.pool, *pair, 1, clock) for pair in _pairs(loan)]
        if Unmet.SMALL in told:
            whole = math.close_all(state, world.pool, math.orders(state, world.pool, clock), clock)
            told = [math.heal(state, world.pool, clock) if whole is Unmet.TO_BE_HEALED else whole]
        refusals = [each for each in told if isinstance(each, Unmet) and each is not Unmet.HEALTHY]
        return next(iter(refusals), Unmet.HEALTHY)

    def _way(self, collateral: int, debt: int, pool: Pool) -> Way:
        against, owed = self.listing.markets[collateral], self.listing.markets[debt]
        bonus_wad = pool.incentive_wad - WAD
        return Way(owed.vtoken, owed.token, against.token, bonus_wad, CLOSE_GAS, against.vtoken)

    def _swept(self, act: RepayAll | Heal, closed: math.Close, parts: int) -> Sweep:
        markets = self.listing.markets
        pays = (
            Due(markets[n].token, markets[n].vtoken, units) for n, units in closed.repaid.items() if units
        )
        gets = Counter[str]()
        for number, units in closed.taken.items():
            gets[markets[number].token] += _redeemed(closed.pool, number, units)
        return Sweep(act, tuple(pays), tuple(gets.items()), SWEEP_GAS * (1 + parts))

    def _vtoken(self, number: int) -> str:
        return self.listing.markets[number].vtoken


def _used(loan: Loan) -> list[int]:
    """Return the markets that an account has entered and has something in."""
    state = loan.state
    return [number for number in state.entered if number in state.held or number in state.debts]


def _pairs(loan: Loan) -> Iterator[tuple[int, int]]:
    """Yield every collateral that an account holds with every debt."""
    return ((collateral, debt) for debt in loan.state.debts for collateral in loan.state.held)


def _redeemed(pool: Pool, number: int, units: int) -> int:
    """Return what vTokens are redeemed for (VToken._redeemFresh)."""
    return mul_div_down(units, pool.markets[number].exchange_rate_wad, WAD)


def _health_wad(standing: Health) -> Wad | None:
    return mul_div_down(standing.weighted, WAD, standing.owed) if standing.owed else None


def _reason(unmet: Unmet) -> Reason:
    return Reason("venus.refuses", unmet.value, "what the contract takes")
