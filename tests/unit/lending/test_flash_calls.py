"""Calls of FlashLiquidator, and what it answers."""

import re
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest
from eth_abi.abi import decode, encode

from keeper import abi
from keeper.errors import ChainFault
from keeper.lending.flash import CONTRACT, Kind, flash_call, profit, revert_name
from keeper.lending.routes import Hop, Pool
from keeper.lending.words import By, Flash, Lender, Repay, Way

WETH, USDC, DAI = (f"0x{each * 20}" for each in ("11", "33", "22"))
AAVE, OURS, BANK = (f"0x{each * 20}" for each in ("aa", "0f", "ba"))
ACCOUNT = bytes.fromhex("b0" * 20) + bytes(12)
ROUTE = (
    Hop(Pool("0x" + "01" * 20, WETH, DAI, 500), WETH),
    Hop(Pool("0x" + "02" * 20, DAI, USDC, None), DAI),
)
WAY = Way(AAVE, USDC, WETH, 5 * 10**16, 400_000)
FLASH = Flash(OURS, Lender.MORPHO, "", ROUTE, 7)
ACT = Repay(ACCOUNT, WAY, By.REPAID, 1_000, 1_000, FLASH)
ERRORS = abi.load(*CONTRACT).errors


def fields(act: Repay, kind: Kind) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Return the plan of a call without its jobs, and its only job."""
    call = flash_call(act, kind)
    run = abi.load(*CONTRACT).functions["run"]
    assert (call.to, call.data[:4]) == (OURS, run.selector)
    [plan] = decode(run.inputs, call.data[4:])
    [job] = plan[4]
    return (*plan[:4], plan[5]), job


def test_a_closing_lends_what_it_repays_and_sells_along_its_route() -> None:
    plan, job = fields(ACT, Kind.AAVE_V3)
    assert plan == (0, "0x" + "00" * 20, USDC, 1_000, 7)
    hops = ((DAI, 500), (USDC, 0))
    assert job == (0, AAVE, bytes(32), WETH, "0x" + "b0" * 20, 0, 1_000, hops)


@pytest.mark.parametrize(
    ("kind", "by", "market", "word"),
    [
        (Kind.MORPHO_BLUE, By.SHARES, "0x" + "5e" * 32, "5e" * 32),
        (Kind.PRE_LIQUIDATION, By.SEIZED, "0x" + "5e" * 32, "5e" * 32),
        (Kind.COMPOUND_V2, By.REPAID, "0x" + "77" * 20, "00" * 12 + "77" * 20),
    ],
)
def test_a_market_is_a_word_and_an_order_is_counted_as_it_is_asked(
    kind: Kind, by: By, market: str, word: str
) -> None:
    act = replace(ACT, way=replace(WAY, market=market), by=by, asked=5)
    plan, job = fields(act, kind)
    assert plan[3] == 1_000
    assert job[0] == kind
    assert job[2] == bytes.fromhex(word)
    assert job[5:7] == (list(By).index(by), 5)


def test_a_pool_that_lends_is_named() -> None:
    lent = replace(FLASH, lender=Lender.UNISWAP_V3, pool=BANK, route=())
    plan, job = fields(replace(ACT, flash=lent), Kind.AAVE_V3)
    assert plan[:2] == (2, BANK)
    assert job[7] == ()


def test_what_is_no_flash_loan_or_sells_another_token_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a flash loan"):
        flash_call(replace(ACT, flash=None), Kind.AAVE_V3)
    for route in (ROUTE[1:], (ROUTE[0], ROUTE[0])):
        with pytest.raises(ValueError, match="expected a route that sells"):
            flash_call(replace(ACT, flash=replace(FLASH, route=route)), Kind.AAVE_V3)


def test_a_run_returns_its_profit() -> None:
    assert profit((12).to_bytes(32)) == 12
    with pytest.raises(ChainFault, match="expected run to give"):
        profit(b"")


def test_its_own_errors_are_told_in_words_and_those_of_others_are_not() -> None:
    unprofitable = ERRORS["Unprofitable"]
    assert (
        revert_name(unprofitable.selector + encode(unprofitable.types, (-5, 7)))
        == "Unprofitable(got=-5, wanted=7)"
    )
    refused = ERRORS["Refused"]
    told = revert_name(refused.selector + encode(refused.types, (AAVE, 3)))
    assert told == f"Refused(venue={AAVE}, code=3)"
    assert revert_name(bytes.fromhex("08c379a0")) is None
    assert revert_name(b"") is None
    assert revert_name(unprofitable.selector + b"\x01").startswith("Unprofitable, unreadable: 0x")  # type: ignore[union-attr]


SOURCE = Path(__file__).parents[3] / "contracts" / "src" / "flash" / "FlashLiquidator.sol"


@pytest.mark.parametrize("words", [Kind, Lender, By], ids=lambda words: words.__name__)
def test_words_are_in_the_order_of_the_contract(words: type[Enum]) -> None:
    [told] = re.findall(rf"^enum {words.__name__} {{([^}}]*)}}", SOURCE.read_text(), re.MULTILINE)
    assert [each.strip().upper() for each in told.split(",")] == [
        each.name.replace("_", "") for each in words
    ]
