"""Logs into facts, takeovers into calldata, answers into the world, and the contract's words."""

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from keeper import abi
from keeper.domain import Call, Log, Poke, Reason, Refuse, TakeOver
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.lending.flash import CONTRACT
from keeper.lending.words import Flash, FlashTakeOver, Lender
from keeper.protocols.perp_curie import codec
from keeper.protocols.perp_curie.math import Terms
from keeper.protocols.perp_curie.params import Deployment, load, read_deployment, version_of
from keeper.units import WAD
from tests.unit.protocols.perp_curie.perps import (
    BTC,
    DEPLOYMENT,
    ETH,
    HOUSE,
    MARKET,
    READER,
    USDC,
    VAULT,
    key,
)

SOMEBODY, TAKER = "0x" + "00" * 19 + "05", "0x" + "00" * 19 + "06"
FEED, OURS = "0x" + "fe" * 20, "0x" + "0f" * 20


def log_of(address: str, signature: str, indexed: list[str], kinds: list[str], values: list[object]) -> Log:
    topics = (keccak(text=signature), *(bytes(12) + bytes.fromhex(each[2:]) for each in indexed))
    return Log(address, topics, encode(kinds, values), 9, "0xblock", "0xtx", 3)


LIQUIDATED = log_of(
    HOUSE,
    "PositionLiquidated(address,address,uint256,uint256,uint256,address)",
    [SOMEBODY, ETH],
    ["uint256", "uint256", "uint256", "address"],
    [9_900 * WAD, 5 * WAD, 247 * WAD, TAKER],
)
DEPOSITED = log_of(VAULT, "Deposited(address,address,uint256)", [READER, SOMEBODY], ["uint256"], [10**6])


def test_a_takeover_touches_both_accounts_and_says_what_it_moved() -> None:
    fact = MARKET.decode(LIQUIDATED)
    assert fact is not None
    assert (fact.act, fact.touched, fact.block) == ("PositionLiquidated", (key(5), key(6)), 9)
    assert fact.args["positionSize"] == 5 * WAD
    assert fact.args["liquidator"] == TAKER


def test_money_paid_in_touches_its_trader_and_not_the_token() -> None:
    fact = MARKET.decode(DEPOSITED)
    assert fact is not None
    assert fact.touched == (key(5),)


def test_what_is_of_no_account_or_of_another_contract_is_passed_over() -> None:
    elsewhere = Log(READER, LIQUIDATED.topics, LIQUIDATED.data, 9, "", "", 0)
    paused = Log(HOUSE, (keccak(text="Paused(address)"),), bytes(32), 9, "", "", 0)
    nameless = Log(HOUSE, (), b"", 9, "", "", 0)
    assert [MARKET.decode(each) for each in (elsewhere, paused, nameless)] == [None] * 3
    assert MARKET.addresses == (HOUSE, VAULT)


@pytest.mark.parametrize("data", [b"", LIQUIDATED.data[:-1], LIQUIDATED.data[:-32]])
def test_a_log_of_ours_that_is_cut_off_is_a_fault_of_the_node(data: bytes) -> None:
    with pytest.raises(ChainFault, match="expected PositionLiquidated"):
        MARKET.decode(Log(HOUSE, LIQUIDATED.topics, data, 9, "", "", 0))


def test_a_takeover_names_trader_market_and_signed_size() -> None:
    call = MARKET.encode(TakeOver(key(5), ETH, -3 * WAD))
    assert call.to == HOUSE
    assert call.data[:4] == keccak(text="liquidate(address,address,int256)")[:4]
    assert call.data[4:] == encode(["address", "address", "int256"], [SOMEBODY, ETH, -3 * WAD])


def test_a_takeover_with_borrowed_margin_lends_what_perpetual_settles_in() -> None:
    flash = Flash(OURS, Lender.AAVE, "", (), 7)
    call = MARKET.encode(FlashTakeOver(key(5), ETH, -3 * WAD, 1_000, flash))
    run = abi.load(*CONTRACT).functions["run"]
    [plan] = decode(run.inputs, call.data[4:])
    assert call.to == OURS
    assert (*plan[:4], plan[5]) == (1, "0x" + "00" * 20, USDC, 1_000, 7)
    base = bytes(12) + bytes.fromhex(ETH[2:])
    assert plan[4] == ((4, HOUSE, base, USDC, SOMEBODY, 0, 2**256 - 3 * WAD, ()),)


def test_no_other_act_is_known() -> None:
    with pytest.raises(InvariantBroken, match="Perpetual knows no Poke"):
        MARKET.encode(Poke(key(5)))


def still_open(base: str, size: int) -> str:
    data = encode(["address", "int256"], [base, size])
    return "0x" + (abi.load(*CONTRACT).errors["StillOpen"].selector + data).hex()


def error(words: str) -> str:
    return "0x" + (keccak(text="Error(string)")[:4] + encode(["string"], [words])).hex()


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (error("CH_EAV"), "CH_EAV: the account has enough value"),
        (error("CH_NEFCI"), "CH_NEFCI: the taker has not enough free collateral"),
        (error("Pausable: paused"), "Pausable: paused"),
        ("0x08c379a0ff", "an error that is unreadable: 0x08c379a0ff"),
        ("0x12345678", "unknown error 0x12345678"),
        (still_open(ETH, -5), f"StillOpen(baseToken={ETH}, size=-5)"),
        ("0x", "reverted without a reason"),
        ("out of gas", "out of gas"),
    ],
)
def test_a_refusal_is_told_in_the_contracts_words(evidence: str, told: str) -> None:
    reason = Reason("simulation.reverted", evidence, "must not revert")
    assert MARKET.explain(Refuse(reason)).reason.evidence == told


# --- the world -----------------------------------------------------------------------------------

SHARED = (62_500, 100_000, 25_000, 100_000, 6, 5 * WAD, False)
OPEN = (1_990, True, 1_980, 1_990, -5, 2_001, 77, FEED, b"ETH / USD".ljust(32, b"\0"))
CLOSED = (39_000, False, 0, 0, 0, 0, 0, READER, bytes(32))


def answer(*markets: tuple[object, ...]) -> bytes:
    return encode(load("PerpReader").functions["world"].outputs, [SHARED, list(markets)])


def test_the_world_is_read_in_the_order_of_the_columns() -> None:
    world = MARKET.decode_prices(answer(OPEN, CLOSED))
    assert world.terms == Terms(62_500, 25_000, 6, 5 * WAD)
    assert (world.initial, world.funding_rate, world.paused) == (100_000, 100_000, False)
    eth, btc = world.markets
    assert (eth.mark_wad, eth.spot_wad, eth.twap_wad, eth.premium_wad, eth.index_wad) == (
        1_990, 1_980, 1_990, -5, 2_001,
    )  # fmt: skip
    assert (eth.is_open, eth.updated_at_s, btc.is_open, btc.mark_wad) == (True, 77, False, 39_000)
    assert world.version == version_of([(FEED, OPEN[-1]), (READER, bytes(32))])


def test_another_number_of_markets_or_a_cut_off_answer_is_a_fault_of_the_node() -> None:
    with pytest.raises(ChainFault, match="expected 2 markets, found 1"):
        MARKET.decode_prices(answer(OPEN))
    with pytest.raises(ChainFault, match="expected world to give"):
        MARKET.decode_prices(answer(OPEN, CLOSED)[:-32])


def listed(markets: dict[str, str], house: str = HOUSE) -> Deployment:
    """Read a deployment whose reader answers as above."""
    rounds = read_deployment(HOUSE.upper().replace("X", "x"), markets, READER)
    assert [call.to for call in next(rounds)] == [READER, READER]
    (asked,) = rounds.send([encode(["address"], [house]), encode(["address"], [VAULT])])
    assert asked == Call(VAULT, keccak(text="getSettlementToken()")[:4])
    (asked,) = rounds.send([encode(["address"], [USDC])])
    assert asked == codec.world_call(Deployment(HOUSE, VAULT, USDC, READER, markets))
    try:
        rounds.send([answer(OPEN, CLOSED)])
    except StopIteration as found:
        result: Deployment = found.value
        return result
    raise AssertionError


def test_a_market_takes_its_feed_from_the_configuration_or_from_its_aggregators_own_name() -> None:
    assert listed({ETH: "", BTC: ""}).feeds == ("ETH/USD", None)
    assert listed({ETH: "", BTC: ""}).unnamed == (BTC,)
    found = listed({ETH: "WETH/USD", BTC: "BTC/USD"})
    assert found.feeds == ("WETH/USD", "BTC/USD")
    assert (found.clearing_house, found.vault, found.token) == (HOUSE, VAULT, USDC)
    assert found.bases == (ETH, BTC)


def test_a_reader_of_another_deployment_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"reads {VAULT}, not"):
        listed({ETH: "", BTC: ""}, house=VAULT)


def test_the_listing_is_read_anew_where_a_market_gets_another_feed() -> None:
    rounds = MARKET.refresh()
    assert next(rounds) == [codec.world_call(DEPLOYMENT)]
    with pytest.raises(StopIteration) as found:
        rounds.send([answer((*OPEN[:-2], READER, OPEN[-1]), CLOSED)])
    market = found.value.value
    assert market.version == version_of([(READER, OPEN[-1]), (READER, bytes(32))]) != MARKET.version
    assert market.feeds == ("ETH/USD", "BTC/USD")
