"""Finding pools, and the routes through them."""

from collections.abc import Callable

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from keeper.domain import Call
from keeper.errors import ChainFault
from keeper.lending.routes import FEES, NOBODY, Q96, Pool, Pools, find_pools

AAA, BBB, USD = (f"0x{each * 20}" for each in ("0a", "0b", "0d"))
V3, V2 = "0x" + "f3" * 20, "0x" + "f2" * 20
SLOT0 = ["uint160", "int24", "uint16", "uint16", "uint16", "uint8", "bool"]


def address(a: str, b: str, fee: int | None) -> str:
    return "0x" + keccak(text=f"{a}{b}{fee}").hex()[:40]


class Chain:
    """Factories that know some pools, at par unless a price is given."""

    def __init__(self) -> None:
        self.depths: dict[tuple[str, str, int | None], tuple[int, float]] = {}
        self.asked = 0

    def open(self, a: str, b: str, fee: int | None, depth: int, price: float = 1.0) -> Pool:
        self.depths[a, b, fee] = (depth, price)
        return Pool(address(a, b, fee), a, b, fee)

    def answer(self, call: Call) -> bytes:
        self.asked += 1
        if call.to in (V2, V3):
            a, b, *fee = decode(["address"] * 2 + ["uint24"] * (call.to == V3), call.data[4:])
            key = (a, b, fee[0] if fee else None)
            return encode(["address"], [address(*key) if key in self.depths else NOBODY])
        [(depth, price)] = [found for key, found in self.depths.items() if address(*key) == call.to]
        root = price**0.5
        answers: dict[str, Callable[[], bytes]] = {
            "0902f1ac": lambda: encode(
                ["uint112"] * 2 + ["uint32"], [int(depth / root), int(depth * root), 0]
            ),
            "1a686502": lambda: encode(["uint128"], [depth]),
            "3850c7bd": lambda: encode(SLOT0, [int(root * Q96), 0, 0, 0, 0, 0, True]),
        }
        return answers[call.data[:4].hex()]()

    def pools(
        self, tokens: list[str], bridges: list[str], v2_factory: str = V2, v3_factory: str = V3
    ) -> Pools:
        rounds = find_pools(tokens, bridges, v3_factory=v3_factory, v2_factory=v2_factory)
        calls = next(rounds)
        try:
            while True:
                calls = rounds.send([self.answer(call) for call in calls])
        except StopIteration as found:
            pools: Pools = found.value
            return pools


def test_what_has_not_to_be_sold_has_a_route_of_no_hops() -> None:
    assert Chain().pools([AAA], [USD]).routes(AAA, AAA) == ((),)


def test_only_pools_of_factories_that_are_named_are_looked_for() -> None:
    chain = Chain()
    chain.open(AAA, USD, 500, 10**20)
    pair = chain.open(AAA, USD, None, 10**18)
    [[hop]] = chain.pools([AAA], [USD], v3_factory="").routes(AAA, USD)
    assert hop.pool == pair
    assert chain.pools([AAA], [USD], v2_factory="", v3_factory="").by_pair == {}


def test_a_pair_of_tokens_without_a_pool_has_no_route() -> None:
    chain = Chain()
    chain.open(AAA, USD, 500, 10**20)
    assert chain.pools([AAA, BBB], [USD]).routes(AAA, BBB) == ()


def test_the_deepest_comes_first_whatever_its_version_and_three_at_most() -> None:
    chain = Chain()
    shallow = chain.open(AAA, USD, 100, 10**18)
    deep = chain.open(AAA, USD, 3_000, 10**21)
    pair = chain.open(AAA, USD, None, 10**20)
    chain.open(AAA, USD, 10_000, 10**17)
    routes = chain.pools([AAA], [USD]).routes(AAA, USD)
    assert [[hop.pool for hop in route] for route in routes] == [[deep], [pair], [shallow]]
    back = chain.pools([AAA], [USD]).routes(USD, AAA)
    assert [[hop.sells for hop in route] for route in back] == [[USD]] * 3


def test_who_lends_beside_a_route_is_the_deepest_pool_of_v3_that_it_leaves_out() -> None:
    chain = Chain()
    for fee, depth in ((3_000, 10**21), (500, 10**20), (100, 10**18)):
        chain.open(AAA, USD, fee, depth)
    chain.open(BBB, USD, None, 10**22)
    pools = chain.pools([AAA, BBB], [USD])
    deepest, *_ = pools.routes(AAA, USD)
    lender = pools.lender(USD, deepest)
    assert lender is not None
    assert lender.fee == 500
    assert pools.lender(BBB, deepest) is None


def test_a_bridge_is_taken_where_there_is_no_pool_or_only_a_shallower_one() -> None:
    chain = Chain()
    first, second = chain.open(AAA, USD, 500, 10**21, 2_000.0), chain.open(BBB, USD, 500, 10**21)
    [route] = chain.pools([AAA, BBB], [USD]).routes(AAA, BBB)
    assert [(hop.pool, hop.sells, hop.buys) for hop in route] == [(first, AAA, USD), (second, USD, BBB)]
    direct = chain.open(AAA, BBB, 500, 10**17)
    routes = chain.pools([AAA, BBB], [USD, BBB]).routes(AAA, BBB)
    assert [[hop.pool for hop in route] for route in routes] == [[first, second], [direct]]


def test_the_shallower_of_two_pools_counts_in_units_of_what_is_sold() -> None:
    chain = Chain()
    chain.open(AAA, USD, 500, 10**20, 100.0)
    chain.open(BBB, USD, 500, 10**20, 100.0)
    # Two that hold 1e19 of it, one after the other, are as deep as one that holds 5e18.
    for depth, hops in ((4 * 10**18, 2), (6 * 10**18, 1)):
        chain.open(AAA, BBB, 500, depth)
        assert len(chain.pools([AAA, BBB], [USD, AAA]).routes(AAA, BBB)[0]) == hops


@pytest.mark.parametrize(("depth", "price"), [(0, 1.0), (0, 0.0)], ids=["empty", "never initialised"])
def test_a_pool_in_which_nothing_can_be_sold_is_none(depth: int, price: float) -> None:
    chain = Chain()
    chain.open(AAA, USD, 500, depth, price)
    assert chain.pools([AAA], [USD]).routes(AAA, USD) == ()


def test_without_a_factory_of_v2_no_pair_is_asked_for() -> None:
    chain = Chain()
    chain.open(AAA, USD, None, 10**20)
    assert chain.pools([AAA, USD], [USD], v2_factory="").routes(AAA, USD) == ()
    assert chain.asked == len(FEES)


def test_what_is_no_factory_is_a_fault() -> None:
    rounds = find_pools([AAA], [USD], v3_factory=V3)
    calls = next(rounds)
    with pytest.raises(ChainFault, match="expected getPair to give"):
        rounds.send([b""] * len(calls))
