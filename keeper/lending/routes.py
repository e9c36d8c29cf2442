"""Where tokens are sold: pools of Uniswap v2 and v3, and the routes through them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from keeper.abi import function
from keeper.domain import Call

FEES: Final = (100, 500, 3_000, 10_000)
"""Of the pools of Uniswap v3 that are looked for, in millionths."""
MOST_ROUTES: Final = 3
NOBODY: Final = "0x" + "00" * 20
Q96: Final = 2**96
_GET_POOL: Final = function("getPool(address,address,uint24)", "address")
_GET_PAIR: Final = function("getPair(address,address)", "address")
_LIQUIDITY: Final = function("liquidity()", "uint128")
_SLOT0: Final = function("slot0()", "uint160,int24,uint16,uint16,uint16,uint8,bool")
_RESERVES: Final = function("getReserves()", "uint112,uint112,uint32")


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of two tokens, the one with the lower address first."""

    address: str
    token0: str
    token1: str
    fee: int | None
    """Of Uniswap v3, in millionths; None for a pair of v2, which takes 3,000."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One sale: all that there is of a token, for the other one of a pool."""

    pool: Pool
    sells: str

    @property
    def buys(self) -> str:
        """Return the token that comes out."""
        return self.pool.token1 if self.sells == self.pool.token0 else self.pool.token0


Route: TypeAlias = tuple[Hop, ...]
"""Sales one after another; none where nothing has to be sold."""


@dataclass(frozen=True, slots=True)
class Depth:
    """A pool, and how much of both tokens it trades as if it held: what it has within range, for v3.

    Selling the part x of it lowers the price by about 2x, in every pool; so depths compare.
    """

    pool: Pool
    token0: float
    token1: float

    def of(self, token: str) -> float:
        """Return that of one of its tokens, in units."""
        return self.token0 if token == self.pool.token0 else self.token1


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools that there were in one block, by their two tokens, the lower address first."""

    by_pair: Mapping[tuple[str, str], tuple[Depth, ...]]
    bridges: tuple[str, ...]

    def routes(self, sells: str, buys: str) -> tuple[Route, ...]:
        """Return at most three routes, direct or over one bridge, the deepest first.

        What a sale gives is not foreseen here: each route is tried by simulation.
        """
        if sells == buys:
            return ((),)
        direct = [(each.of(sells), (Hop(each.pool, sells),)) for each in self._between(sells, buys)]
        found = [*direct, *self._bridged(sells, buys)]
        return tuple(route for _, route in sorted(found, key=lambda each: -each[0])[:MOST_ROUTES])

    def lender(self, token: str, route: Route) -> Pool | None:
        """Return the pool of v3 with most of a token, of those that no sale of a route goes through."""
        taken = {hop.pool.address for hop in route}
        depths = (each for pair, found in self.by_pair.items() if token in pair for each in found)
        free = [each for each in depths if each.pool.fee and each.pool.address not in taken]
        return max(free, key=lambda each: each.of(token)).pool if free else None

    def _bridged(self, sells: str, buys: str) -> Iterator[tuple[float, Route]]:
        """Yield routes of two hops with their depth: that of the one pool which would move as far."""
        for bridge in self.bridges:
            for first in self._between(sells, bridge):
                for second in self._between(bridge, buys):
                    # The second pool's depth, in units of what is sold.
                    further = second.of(bridge) * first.of(sells) / first.of(bridge)
                    depth = 1 / (1 / first.of(sells) + 1 / further)
                    yield depth, (Hop(first.pool, sells), Hop(second.pool, bridge))

    def _between(self, a: str, b: str) -> tuple[Depth, ...]:
        return self.by_pair.get(_sorted(a, b), ())


def find_pools(
    tokens: Iterable[str], bridges: Sequence[str], *, v3_factory: str = "", v2_factory: str = ""
) -> Generator[list[Call], list[bytes], Pools]:
    """Find the pools of every token with every bridge in which something can be sold now.

    Yields the calls of each round and is sent the answers of one block. Who wants every direct pool names all
    tokens as bridges. Raises ChainFault where an answer is not what such a contract gives.
    """
    pairs = sorted(
        {_sorted(each, bridge) for each in {*tokens, *bridges} for bridge in bridges if each != bridge}
    )
    fees = (*(FEES if v3_factory else ()), *([None] if v2_factory else []))
    wanted = [(pair, fee) for pair in pairs for fee in fees]
    answers = yield [
        _GET_PAIR.call(v2_factory, *pair) if fee is None else _GET_POOL.call(v3_factory, *pair, fee)
        for pair, fee in wanted
    ]
    there = [
        Pool(address, *pair, fee)
        for (pair, fee), answer in zip(wanted, answers, strict=True)
        if (address := _GET_PAIR.result(answer)[0]) != NOBODY
    ]
    answers = yield [call for pool in there for call in _depth_calls(pool)]
    left = iter(answers)
    by_pair: dict[tuple[str, str], tuple[Depth, ...]] = {}
    for pool in there:
        depth = _depth(pool, left)
        if depth.token0 and depth.token1:
            pair = (pool.token0, pool.token1)
            by_pair[pair] = (*by_pair.get(pair, ()), depth)
    return Pools(by_pair, tuple(bridges))


def _depth_calls(pool: Pool) -> list[Call]:
    asked = [_RESERVES] if pool.fee is None else [_LIQUIDITY, _SLOT0]
    return [each.call(pool.address) for each in asked]


def _depth(pool: Pool, answers: Iterator[bytes]) -> Depth:
    """Take as many answers as the pool was asked."""
    if pool.fee is None:
        reserve0, reserve1, _ = _RESERVES.result(next(answers))
        return Depth(pool, reserve0, reserve1)
    (liquidity,) = _LIQUIDITY.result(next(answers))
    root = _SLOT0.result(next(answers))[0] / Q96
    # One that was never initialised has neither price nor liquidity.
    return Depth(pool, liquidity / root if root else 0.0, liquidity * root)


def _sorted(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
