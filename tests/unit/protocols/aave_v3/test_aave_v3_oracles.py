"""Sources of prices walked down to feeds, answer by answer; what does not say enough is not guessed."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from eth_abi.abi import decode, encode

from keeper.domain import Call
from keeper.errors import ChainFault
from keeper.protocols.aave_v3.abi import READER
from keeper.protocols.aave_v3.oracles import _QUESTIONS, DEPTH, Trace, trace

READER_AT = "0x" + "4e" * 20
A, B, C, D = ("0x" + letter * 40 for letter in "abcd")
ROUND = encode(["uint80", "int256", "uint256", "uint256", "uint80"], [1, 2_000 * 10**8, 1, 1, 1])


def feed(description: str, decimals: int = 8) -> dict[str, bytes]:
    told = {"description": encode(["string"], [description]), "decimals": encode(["uint8"], [decimals])}
    return {**told, "latestRoundData": ROUND}


def behind(**getters: str) -> dict[str, bytes]:
    return {name: encode(["address"], [to]) for name, to in getters.items()}


def traced(
    sources: Mapping[str, str | None], contracts: Mapping[str, Mapping[str, bytes]]
) -> tuple[Mapping[str, tuple[Trace, ...]], int]:
    """Answer every question as the contracts would; return what was found, and in how many rounds."""
    rounds, count = trace(READER_AT, sources), 0
    try:
        calls = next(rounds)
        while True:
            count += 1
            calls = rounds.send([_answer(call, contracts) for call in calls])
    except StopIteration as found:
        result: Mapping[str, tuple[Trace, ...]] = found.value
        return result, count


def _answer(call: Call, contracts: Mapping[str, Mapping[str, bytes]]) -> bytes:
    assert call.to == READER_AT
    names = {question.selector: question.name for question in _QUESTIONS}
    targets, asked = decode(READER["tried"].inputs, call.data[4:])
    answers = [contracts.get(to, {}).get(names[data], b"") for to, data in zip(targets, asked, strict=True)]
    return encode(["bytes[]"], [answers])


def test_a_feed_is_known_by_how_it_describes_itself() -> None:
    assert traced({A: None}, {A: feed("ETH / USD")}) == ({A: (Trace("ETH/USD", A, 8),)}, 1)


def test_an_adapter_is_looked_behind() -> None:
    capped = {"description": encode(["string"], ["Capped wstETH / stETH(ETH) / USD"])}
    contracts = {A: {**capped, **behind(BASE_TO_USD_AGGREGATOR=B)}, B: feed("ETH / USD")}
    assert traced({A: None}, contracts) == ({A: (Trace("ETH/USD", B, 8),)}, 2)


def test_a_product_of_two_feeds_moves_with_both() -> None:
    contracts = {
        A: behind(ASSET_TO_PEG=B, PEG_TO_BASE=C),
        B: feed("WBTC / BTC"),
        C: behind(aggregator=D),
        D: feed("BTC / USD"),
    }
    found, _ = traced({A: None}, contracts)
    assert found == {A: (Trace("WBTC/BTC", B, 8), Trace("BTC/USD", D, 8))}


def test_what_caps_by_another_currency_moves_with_the_asset_alone() -> None:
    contracts = {
        A: behind(ASSET_TO_USD_AGGREGATOR=B, BASE_TO_USD_AGGREGATOR=C),
        B: feed("EURC / USD"),
        C: feed("EUR / USD"),
    }
    assert traced({A: None}, contracts)[0] == {A: (Trace("EURC/USD", B, 8),)}


def test_half_a_product_is_not_traced() -> None:
    contracts = {A: behind(ASSET_TO_PEG=B, PEG_TO_BASE=C), B: feed("WBTC / BTC")}
    assert traced({A: None, D: None}, {**contracts, D: behind(ASSET_TO_PEG=B)})[0] == {A: (), D: ()}


def test_the_configuration_names_what_does_not_describe_itself() -> None:
    silent = {name: data for name, data in feed("").items() if name != "description"}
    assert traced({A: "ETH/USD", B: None}, {A: silent, B: silent})[0] == {A: (Trace("ETH/USD", A, 8),), B: ()}


def test_what_is_named_and_leads_to_no_feed_is_one_itself() -> None:
    fixed = Trace("GHO/USD", A, 8, is_oracle=True)
    assert traced({A: "GHO/USD", B: None}, {A: {}, B: {}})[0] == {A: (fixed,), B: ()}
    # A name is no reason not to look behind it.
    contracts = {A: behind(BASE_TO_USD_AGGREGATOR=B), B: feed("ETH / USD")}
    assert traced({A: "WSTETH/USD"}, contracts)[0] == {A: (Trace("ETH/USD", B, 8),)}


@pytest.mark.parametrize(
    "lacking",
    [
        {"decimals": b""},
        {"decimals": encode(["uint256"], [200])},
        {"latestRoundData": b""},
        {"latestRoundData": ROUND[:-32]},
        {"description": b"\x01"},
        {"description": encode(["string"], ["Capped USDC / USD"])},
        {"description": encode(["string"], ["stETH/ETH/USD"])},
    ],
)
def test_a_feed_that_lacks_something_is_none(lacking: dict[str, bytes]) -> None:
    assert traced({A: None}, {A: {**feed("ETH / USD"), **lacking}})[0] == {A: ()}


def test_a_getter_that_names_nobody_leads_nowhere() -> None:
    assert traced({A: None}, {A: behind(aggregator="0x" + "00" * 20)}) == ({A: ()}, 1)


def test_a_circle_of_adapters_ends() -> None:
    assert traced({A: None}, {A: behind(aggregator=B), B: behind(aggregator=A)})[0] == {A: ()}


def test_so_many_contracts_are_looked_into_and_no_more() -> None:
    chain = [f"0x{number:040x}" for number in range(1, DEPTH + 2)]
    contracts = {here: behind(aggregator=there) for here, there in pairwise(chain)}
    found, rounds = traced({chain[0]: None}, {**contracts, chain[-1]: feed("ETH / USD")})
    assert (found[chain[0]], rounds) == ((), DEPTH)
    found, _ = traced({chain[1]: None}, {**contracts, chain[-1]: feed("ETH / USD")})
    assert found[chain[1]] == (Trace("ETH/USD", chain[-1], 8),)


def test_many_sources_are_asked_in_several_calls() -> None:
    sources = [f"0x{number:040x}" for number in range(1, 46)]
    rounds = trace(READER_AT, dict.fromkeys(sources))
    assert len(next(rounds)) == 3


def test_another_number_of_answers_is_a_fault_of_the_chain() -> None:
    rounds = trace(READER_AT, {A: None})
    next(rounds)
    with pytest.raises(ChainFault, match="expected 8 answers of sources of prices, found 1"):
        rounds.send([encode(["bytes[]"], [[b""]])])
