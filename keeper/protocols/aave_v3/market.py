"""A pool of Aave v3 as the pipeline and the desk see it, judged by the pool's own integers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from keeper import abi
from keeper.columns.legs import Floats
from keeper.domain import Act, Call, ChainTime, Fact, Log, Quote, Reason, Refuse, Unknown
from keeper.errors import InvariantBroken
from keeper.lending import flash, tokens
from keeper.lending.feeds import QUOTE
from keeper.lending.flash import Kind
from keeper.lending.words import By, Close, Repay, Sight, Standing, Sweep, Way
from keeper.protocols.aave_v3 import codec, math
from keeper.protocols.aave_v3.codec import AaveWorld
from keeper.protocols.aave_v3.math import RAY, Loan, Rules, Unmet
from keeper.protocols.aave_v3.oracles import Trace
from keeper.protocols.aave_v3.params import BASE_UNIT, CATEGORIES, Deployment, read_deployment
from keeper.protocols.aave_v3.rows import AaveRow, AaveRows
from keeper.remedies import Do, Mend
from keeper.risk.marks import Marks
from keeper.units import BPS, WAD, AccountKey, Bps, FeedId, UnixS, Wad, mul_div_down, mul_div_up

BASE_WAD: Final = WAD // BASE_UNIT
MOST: Final = 2**128 - 1
"""A supply of more is none."""
GAS: Final = 280_000
GAS_OF_RESERVE: Final = 40_000
"""What a liquidation uses, and what each reserve of the account adds, of which the pool asks the price."""


class AaveMarket:
    """Implements ``ports.LendingMarket`` for one pool."""

    drifts: Final[bool] = False

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    # --- what is listed ---

    @property
    def shape(self) -> AaveRows:
        """Of what its accounts are made, with columns for every number up to the highest."""
        return AaveRows(max(self.deployment.reserves, default=-1) + 1)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The pool, and the receipts, which alone tell of transfers."""
        return (self.deployment.pool, *(each.atoken for each in self.deployment.reserves.values()))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The token of every reserve."""
        return tuple(each.token for each in self.deployment.reserves.values())

    @property
    def receipts(self) -> Mapping[str, str]:
        """None: tokens are seized themselves."""
        return {}

    @property
    def spending(self) -> tuple[tuple[str, str], ...]:
        """The token of every reserve, with the pool that takes it."""
        return tuple((token, self.deployment.pool) for token in self.tokens)

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed that a price was traced to, each once."""
        named = (each.feed for found in self.deployment.traces.values() for each in found)
        return tuple(dict.fromkeys(feed for feed in named if feed != QUOTE))

    @property
    def untraced(self) -> tuple[str, ...]:
        """The tokens whose price is the chain's alone, since it could not be traced to feeds."""
        listed, traces = self.deployment.reserves, self.deployment.traces
        return tuple(each.token for number, each in listed.items() if not traces[number])

    @property
    def version(self) -> int:
        """The ``World.version`` at which the listing was read."""
        return self.deployment.version

    def refresh(self) -> Generator[list[Call], list[bytes], AaveMarket]:
        """Find out anew what is listed, and where its prices come from."""
        known = self.deployment
        return AaveMarket((yield from read_deployment(known.pool, known.named, known.reader)))

    # --- between bytes and words ---

    def rows_call(self, accounts: Sequence[AccountKey]) -> Call:
        """Ask for the exact state of many accounts; ``shape`` reads it."""
        return codec.rows_call(self.deployment, accounts)

    def prices_call(self) -> Call:
        """Ask for reserves, e-mode categories, prices, and the newest answers of feeds."""
        return codec.world_call(self.deployment)

    def decode_prices(self, answer: bytes) -> AaveWorld:
        """Read the world, as it is at the block's own time."""
        return codec.decode_world(answer, self.deployment)

    def decode(self, log: Log) -> Fact | None:
        """Say what a log of this pool means; None for one that changes no account."""
        return codec.decode(log, self.deployment)

    def encode(self, act: Act) -> Call:
        """Build the calldata of an act."""
        if (own := tokens.encode(act)) is not None:
            return own
        if isinstance(act, Repay) and act.by is By.REPAID:
            return flash.flash_call(act, Kind.AAVE_V3) if act.flash else codec.repay_call(act)
        raise InvariantBroken(f"Aave v3 knows no such {type(act).__name__}: {act}")

    def explain(self, reverted: Refuse) -> Refuse:
        """Put the pool's own words in the place of a refusal's revert data."""
        return abi.explained(reverted, flash.named(codec.revert_name))

    # --- the trigger's marks ---

    def marks(self, world: AaveWorld, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Marks:
        """Mark each column at the worse of both clocks: collateral at the lower price, debt at the higher.

        So whoever is below 1 at either is a suspect. Value is price x threshold x index, the charge of a debt
        price x index, by e-mode category; NaN where a price is not to be had. In 3.0 collateral without a
        threshold of its own counts for nothing in a category either.
        """
        now, count = world.at(at_s).now, len(world.now.reserves)
        chain = _column(each.price or np.nan for each in now.reserves)
        fast = _column(each.price for each in self.fast(world, quotes).now.reserves)
        lower, higher = np.minimum(chain, fast), np.maximum(chain, fast)
        units = _column(each.unit * BASE_UNIT for each in now.reserves)
        held = _column(each.income_ray for each in now.reserves) / RAY / units
        owed = _column(each.debt_ray for each in now.reserves) / RAY / units
        weights = _column(_weight(each.threshold_bps, now.rules) for each in now.reserves)
        value, gross = np.zeros((2, CATEGORIES, 2 * count))
        value[:, :count], gross[:, count:] = lower * weights * held, higher * owed
        for number, category in now.categories.items():
            inside = [reserve for reserve in range(count) if category.holds(reserve)]
            low, high = (category.price,) * 2 if category.price else (lower[inside], higher[inside])
            value[number, inside] = low * held[inside] * _weight(category.threshold_bps, now.rules)
            gross[number, count:][inside] = high * owed[inside]
        if now.rules is Rules.V3_0:
            value[:, [reserve for reserve, each in enumerate(now.reserves) if not each.threshold_bps]] = 0
        value[list(world.silent)] = np.nan
        return Marks(
            value=value,
            gross=gross,
            levels=np.ones(CATEGORIES),
            absolute=2 * float(np.nansum(higher / units + 1 / BASE_UNIT)),
        )

    def worths(self, world: AaveWorld, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Floats:
        """Return what a scaled unit of each reserve, held and owed, is worth; NaN where it has no price.

        By the reserve's own price in every category: at that it is sold.
        """
        now = world.at(at_s).now
        prices = _column(each.price or np.nan for each in self.fast(world, quotes).now.reserves)
        units = _column(each.unit * BASE_UNIT * RAY for each in now.reserves)
        held = _column(each.income_ray for each in now.reserves) / units
        owed = _column(each.debt_ray for each in now.reserves) / units
        return np.concatenate([prices * held, -prices * owed])

    def spots(self, world: AaveWorld) -> Mapping[FeedId, Wad]:
        """Return what every feed answered last; of several of one name what the first did."""
        traced = (each for found in self.deployment.traces.values() for each in found)
        answered = ((each.feed, world.answers.get(each.feed_address)) for each in traced)
        told: dict[FeedId, Wad] = {}
        for feed, answer in answered:
            if answer is not None:
                told.setdefault(feed, answer.price_wad)
        return dict(sorted(told.items()))

    # --- the two clocks ---

    def market_of(self, loan: AaveRow) -> str:
        """Return nothing: all accounts are in one pool."""
        del loan
        return ""

    def carried(self, world: AaveWorld, at: ChainTime) -> AaveWorld:
        """Return the world as it will be in block ``at`` if nobody acts on any reserve."""
        return world.at(at.timestamp_s)

    def fast(self, world: AaveWorld, quotes: Mapping[FeedId, Quote | Unknown]) -> AaveWorld:
        """Return the world at the fast prices: each price times fast quote over the feed's newest answer.

        A feed without an answer or a quote leaves its part of a price as it is; e-mode categories keep
        prices of their own.
        """
        moved = {}
        for number, found in self.deployment.traces.items():
            if number < len(world.now.reserves):
                price, of = world.now.reserves[number].price, 1
                for fast_wad, chain_wad in self._pairs(found, world, quotes):
                    price, of = price * fast_wad, of * chain_wad
                moved[number] = price // of
        return world.priced(moved)

    def _pairs(
        self, found: Sequence[Trace], world: AaveWorld, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> Iterator[tuple[Wad, Wad]]:
        for each in found:
            quote, answer = quotes.get(each.feed), world.answers.get(each.feed_address)
            if isinstance(quote, Quote) and answer is not None:
                yield quote.price_wad, answer.price_wad

    def sights(
        self, loan: AaveRow, world: AaveWorld, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> tuple[Sight, ...]:
        """Return what both clocks say of the feeds that an account hangs on, as far as they answer."""
        traces = (self.deployment.traces.get(reserve, ()) for reserve in _reserves(loan))
        seen = {each.feed_address: each for found in traces for each in found}
        return tuple(
            Sight(
                each.feed,
                quote.price_wad if isinstance(quote, Quote) else None,
                answer.price_wad,
                answer.at_s,
            )
            for at, each in seen.items()
            for answer in [world.answers.get(at)]
            if answer is not None
            for quote in [quotes.get(each.feed)]
        )

    def unseen(self, loan: AaveRow, world: AaveWorld) -> tuple[str, ...]:
        """Name the tokens that count for an account and of which a feed is not known, or does not answer.

        And its e-mode category, where that has a price of its own: such are traced to no feed.
        """
        known, now = loan.loan, world.now
        counted = [each for each in _reserves(loan) if each in world.tokens and math.counts(known, now, each)]
        own = [number for number in counted if math.has_own_price(known, now, number)]
        tokens_ = [f"token {world.tokens[number]}" for number in own if not self._is_seen(number, world)]
        return (*tokens_, *([f"e-mode category {loan.category}"] if len(own) < len(counted) else []))

    def _is_seen(self, number: int, world: AaveWorld) -> bool:
        """Tell whether all feeds of a reserve are known, and answer."""
        found = self.deployment.traces.get(number, ())
        return bool(found) and all(each.feed_address in world.answers for each in found)

    # --- the pool's own integers ---

    def stand(self, loan: AaveRow, world: AaveWorld) -> Standing | Unknown:
        """Return how an account stands, equal to ``getUserAccountData``."""
        lacking = _lacking(loan, world)
        if lacking:
            return lacking
        health = math.health(loan.loan, world.now)
        return Standing(
            health_wad=health.factor_wad if health.debt else None,
            debt_wad=health.debt * BASE_WAD,
            collateral_wad=health.collateral * BASE_WAD,
            unmet=_unmet(loan.loan, world.now),
        )

    def ways(self, loan: AaveRow, world: AaveWorld) -> tuple[Way, ...]:
        """Return the pairs that the pool accepts, the one with the lowest bonus first."""
        if _lacking(loan, world):
            return ()
        known = loan.loan
        pairs = math.unmet_by_pair(known, world.now)
        accepted = [self._way(known, *pair, world) for pair, unmet in pairs.items() if unmet is None]
        return tuple(sorted(accepted, key=lambda way: way.bonus_wad))

    def _way(self, loan: Loan, collateral: int, debt: int, world: AaveWorld) -> Way:
        return Way(
            venue=self.deployment.pool,
            debt=world.tokens[debt],
            collateral=world.tokens[collateral],
            bonus_wad=(math.bonus_bps(loan, world.now, collateral) - BPS) * WAD // BPS,
            gas=GAS + GAS_OF_RESERVE * (len(loan.collateral) + len(loan.debt)),
        )

    def most(self, loan: AaveRow, way: Way, world: AaveWorld) -> int:
        """Return the most of the debt that one call closes, 0 where it closes none."""
        if _lacking(loan, world):
            return 0
        return math.most(loan.loan, *_numbers(way, world), world.now)

    def close(self, loan: AaveRow, way: Way, amount: int, world: AaveWorld) -> Close | Refuse:
        """Return what repaying at most so much does, or the pool's own refusal."""
        lacking = _lacking(loan, world)
        if lacking:
            return Refuse(Reason("oracle.unknown", f"{lacking.what}: {lacking.why}", "a price"))
        collateral, debt = _numbers(way, world)
        asked, done = math.close_at_most(loan.loan, collateral, debt, amount, world.now)
        if isinstance(done, Unmet):
            return Refuse(_reason(done, world.now))
        after = math.health(done.after, world.now)
        return Close(
            by=By.REPAID,
            asked=asked,
            repaid=done.repaid,
            seized=done.seized,
            health_after_wad=after.factor_wad if after.debt else None,
            is_whole=done.takes_all_of(collateral, debt),
            bad_debt=_bad_debt(done, debt, world.now),
        )

    def sweep(self, loan: AaveRow, world: AaveWorld) -> Sweep | None:
        """Return None: a pool closes no account whole."""
        del loan, world
        return None

    def mends(self, loan: AaveRow, world: AaveWorld) -> tuple[Mend, ...]:
        """Return what its owner can do: supply more of a collateral, or repay some of a debt."""

        def supplied(reserve: int, amount: int) -> AaveRow:
            scaled = math.scaled_supply(world.now, reserve, amount)
            return replace(loan, collateral=_with(loan.collateral, reserve, scaled))

        def repaid(reserve: int, amount: int) -> AaveRow:
            scaled = math.scaled_repaid(world.now, reserve, dict(loan.debt)[reserve], amount)
            return replace(loan, debt=_with(loan.debt, reserve, -scaled))

        reserves, found = world.now.reserves, []
        for number, scaled in loan.collateral:
            if reserves[number].threshold_bps:
                scale = max(1, math.supplied(world.now, number, scaled) // 100)
                on = partial(supplied, number)
                found.append(
                    Mend(Do.DEPOSIT, world.tokens[number], reserves[number].decimals, scale, MOST, on)
                )
        for number, scaled in loan.debt:
            owed, of, on = math.owed(world.now, number, scaled), world.tokens[number], partial(repaid, number)
            found.append(Mend(Do.REPAY, of, reserves[number].decimals, max(1, owed // 100), owed, on))
        return tuple(found)

    def worth_wad(self, token: str, amount: int, world: AaveWorld) -> Wad | Unknown:
        """Return what an amount of a listed token is worth at the world's prices, rounded down."""
        numbers = [number for number, each in world.tokens.items() if each == token.lower()]
        if not numbers:
            return Unknown(f"token {token}", "not listed by the pool")
        reserve = world.now.reserves[numbers[0]]
        if not reserve.price:
            return Unknown(f"token {token}", "the pool's oracle has no price for it")
        return mul_div_down(amount * BASE_WAD, reserve.price, reserve.unit)


def _with(amounts: tuple[tuple[int, int], ...], reserve: int, more: int) -> tuple[tuple[int, int], ...]:
    """Return amounts by reserve with one of them changed; one that is 0 then is none."""
    changed = {number: amount + more * (number == reserve) for number, amount in amounts}
    return tuple((number, amount) for number, amount in changed.items() if amount)


def _column(numbers: Iterable[float]) -> Floats:
    return np.fromiter(map(float, numbers), np.float64)


def _weight(threshold_bps: Bps, rules: Rules) -> float:
    """Return what a threshold weighs at least: 3.0 rounds the mean of an account's down to a basis point."""
    return (threshold_bps if rules is Rules.V3_6 else max(0, threshold_bps - 1)) / BPS


def _reserves(loan: AaveRow) -> tuple[int, ...]:
    """Return what an account hangs on, each reserve once."""
    return tuple(dict.fromkeys(number for number, _ in (*loan.collateral, *loan.debt)))


def _lacking(loan: AaveRow, world: AaveWorld) -> Unknown | None:
    """Name what of an account is not known: a reserve, a price, or what it owes at a stable rate."""
    if loan.stable_debt:
        return Unknown(f"debt of reserve {loan.stable_debt[0]}", "at a stable rate, which is not computed")
    if loan.category in world.silent:
        return Unknown(f"e-mode category {loan.category}", "its price is not to be had")
    for number in _reserves(loan):
        if number not in world.tokens:
            return Unknown(f"reserve {number}", "not listed by the pool")
        if not world.now.reserves[number].price:
            return Unknown(f"token {world.tokens[number]}", "the pool's oracle has no price for it")
    return None


def _unmet(loan: Loan, world: math.World) -> Reason | None:
    """Return why no pair is accepted: what stands against the one that gets furthest in the pool's order."""
    order, found = list(Unmet), math.unmet_by_pair(loan, world).values()
    refused = [each for each in found if each is not None]
    if len(refused) < len(found):
        return None
    nothing = Unmet.NOT_COLLATERAL if loan.debt else Unmet.NOT_BORROWED
    return _reason(max(refused, key=order.index, default=nothing), world)


def _reason(unmet: Unmet, world: math.World) -> Reason:
    return Reason(
        f"pool.{unmet.name.lower()}", codec.refusal_name(unmet, world.rules), "what the pool accepts"
    )


def _numbers(way: Way, world: AaveWorld) -> tuple[int, int]:
    """Return collateral and debt of a way, by number."""
    numbers = {token: number for number, token in world.tokens.items()}
    return numbers[way.collateral], numbers[way.debt]


def _bad_debt(done: math.Close, debt: int, world: math.World) -> int:
    """Return what the reserves write off, in units of one debt, rounded up."""
    lost = 0
    for number, amount in done.deficit.items():
        reserve, of = world.reserves[number], world.reserves[debt]
        lost += mul_div_up(amount * reserve.price, of.unit, of.price * reserve.unit)
    return lost
