"""Between bytes and words: logs, acts, answers and refusals of Morpho Blue."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.abi import load
from keeper.domain import Call, Log, Reason, Refuse
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.lending.feeds import Feed
from keeper.lending.flash import Kind, flash_call
from keeper.lending.routes import Hop, Pool
from keeper.lending.words import Approve, By, Flash, Heal, Lender, Repay, Way
from keeper.protocols.morpho_blue import codec, math
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.protocols.morpho_blue.oracles import Path
from keeper.protocols.morpho_blue.params import Chosen, Listing, read_listing
from keeper.units import WAD
from tests.unit.protocols.morpho_blue.made import (
    AT,
    CHOSEN,
    EARLY,
    ETH_USD,
    FIRST,
    LATE,
    LISTING,
    MARKET,
    MORPHO,
    ORACLE,
    OTHER_ORACLE,
    OWNER,
    PRE_ORACLE,
    PRES,
    PRICE,
    SECOND,
    USDC,
    USDC_USD,
    WBTC,
    WETH,
    world_words,
)

WHO = "0x" + OWNER.hex()
STATE = [
    MARKET.supply_assets << 128 | MARKET.supply_shares,
    MARKET.borrow_assets << 128 | MARKET.borrow_shares,
    MARKET.updated_at_s << 128 | MARKET.fee_wad,
]
PRICES = (PRICE, PRICE, PRICE)
ROUNDS = ((2_000 * 10**8, AT.timestamp_s - 60), (10**8, AT.timestamp_s - 600))


def log_of(signature: str, *topics: bytes, data: bytes = b"", address: str = MORPHO) -> Log:
    return Log(address, (keccak(text=signature), *topics), data, 5, "0x05", "0xaa", 3)


def word(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def borrowed(market: bytes, data: bytes | None = None) -> Log:
    amounts = encode(["address", "uint256", "uint256"], [WHO, 7, 8]) if data is None else data
    signature = "Borrow(bytes32,address,address,address,uint256,uint256)"
    return log_of(signature, market, word(WHO), word(EARLY), data=amounts)


# --- logs ----------------------------------------------------------------------------------------


def test_a_loan_touches_its_owners_row_in_its_market() -> None:
    fact = codec.decode(borrowed(FIRST), LISTING)
    assert fact is not None
    assert (fact.act, fact.touched, fact.block, fact.log_index) == ("Borrow", (OWNER + FIRST[:12],), 5, 3)
    assert fact.args["id"] == "0x" + FIRST.hex()
    assert (fact.args["owner"], fact.args["assets"]) == (WHO, 7)


def test_leave_given_touches_the_row_of_that_contracts_market() -> None:
    signature = "SetAuthorization(address,address,address,bool)"
    data = encode(["bool"], [True])
    given = log_of(signature, word(WHO), word(WHO), word(LATE), data=data)
    fact = codec.decode(given, LISTING)
    assert fact is not None
    assert fact.touched == (OWNER + FIRST[:12],)
    assert codec.decode(log_of(signature, word(WHO), word(WHO), word(USDC), data=data), LISTING) is None


def test_what_concerns_no_account_is_passed_over() -> None:
    market = MorphoMarket(LISTING)
    accrued = log_of("AccrueInterest(bytes32,uint256,uint256,uint256)", FIRST, data=bytes(96))
    stranger = replace(borrowed(FIRST), address=EARLY)
    assert [market.decode(each) for each in (accrued, stranger, Log(MORPHO, (), b"", 5, "", "", 0))] == [
        None
    ] * 3
    assert market.unlisted == {}


def test_a_market_that_is_not_listed_is_noted_once() -> None:
    market, strange = MorphoMarket(LISTING), FIRST[:12] + bytes(20)
    assert [market.decode(borrowed(strange)) for _ in range(2)] == [None, None]
    assert list(market.unlisted) == ["0x" + strange.hex()]
    assert MorphoMarket(LISTING, market.unlisted).unlisted is market.unlisted


def test_pre_liquidation_speaks_for_itself() -> None:
    signature = "PreLiquidate(bytes32,address,address,uint256,uint256,uint256)"
    data = encode(["uint256"] * 3, [7, 8, 9])
    fact = codec.decode(log_of(signature, FIRST, word(EARLY), word(WHO), data=data, address=LATE), LISTING)
    assert fact is not None
    assert (fact.act, fact.touched) == ("PreLiquidate", (OWNER + FIRST[:12],))


@pytest.mark.parametrize(
    "garbled",
    [borrowed(FIRST, b"\x01"), replace(borrowed(FIRST), topics=borrowed(FIRST).topics[:1])],
    ids=["its data are cut short", "it names no market"],
)
def test_a_garbled_log_is_a_fault_of_the_chain(garbled: Log) -> None:
    with pytest.raises(ChainFault, match="expected Borrow"):
        MorphoMarket(LISTING).decode(garbled)


# --- acts ----------------------------------------------------------------------------------------


def repay(venue: str, by: By, asked: int) -> Repay:
    return Repay(OWNER + FIRST[:12], Way(venue, USDC, WETH, 0, 0, "0x" + FIRST.hex()), by, asked, 1)


def test_a_repayment_is_asked_in_shares_or_in_collateral() -> None:
    liquidate = "(address,address,address,address,uint256)", "address", "uint256", "uint256", "bytes"
    params = LISTING.markets[0].params
    by_shares = MorphoMarket(LISTING).encode(repay(MORPHO, By.SHARES, 5))
    assert by_shares.to == MORPHO
    assert by_shares.data == keccak(text=f"liquidate({','.join(liquidate)})")[:4] + encode(
        liquidate, [params, WHO, 0, 5, b""]
    )
    by_collateral = MorphoMarket(LISTING).encode(repay(LATE, By.SEIZED, 5))
    assert by_collateral.to == LATE
    assert by_collateral.data == keccak(text="preLiquidate(address,uint256,uint256,bytes)")[:4] + encode(
        ["address", "uint256", "uint256", "bytes"], [WHO, 5, 0, b""]
    )


def test_an_allowance_is_exact() -> None:
    call = MorphoMarket(LISTING).encode(Approve(OWNER + FIRST[:12], USDC, MORPHO, 77))
    assert call == Call(
        USDC, keccak(text="approve(address,uint256)")[:4] + encode(["address", "uint256"], [MORPHO, 77])
    )


@pytest.mark.parametrize(("venue", "kind"), [(MORPHO, Kind.MORPHO_BLUE), (EARLY, Kind.PRE_LIQUIDATION)])
def test_a_loan_for_one_transaction_goes_to_our_own_contract(venue: str, kind: Kind) -> None:
    own = repay(venue, By.SHARES, 5)
    hop = Hop(Pool("0x" + "90" * 20, own.way.collateral, own.way.debt, 500), own.way.collateral)
    act = replace(own, flash=Flash("0x" + "f1" * 20, Lender.MORPHO, "", (hop,), 0))
    assert MorphoMarket(LISTING).encode(act) == flash_call(act, kind)


def test_an_act_that_morpho_does_not_know_is_a_mistake_of_ours() -> None:
    market, plain = MorphoMarket(LISTING), repay(MORPHO, By.SHARES, 5)
    other = replace(plain.way, market="0x" + "ff" * 32)
    wrong = (
        replace(plain, by=By.REPAID),
        replace(plain, way=other),
        Heal(OWNER),
    )
    for act in wrong:
        with pytest.raises(InvariantBroken):
            market.encode(act)


# --- answers -------------------------------------------------------------------------------------


def test_rows_are_asked_for_with_the_ids_and_contracts_of_their_markets() -> None:
    keys = [OWNER + FIRST[:12], OWNER + bytes(12)]
    call = codec.rows_call(keys, LISTING)
    pres = [bytes.fromhex(each.address[2:]) + FIRST[:12] for each in PRES]
    rows = load("readers", "MorphoReader").functions["rows"]
    assert call == rows.call(LISTING.chosen.reader, MORPHO, keys, [FIRST, bytes(32)], pres)


def test_a_rate_model_is_adaptive_where_it_answers_so() -> None:
    at_target = 5 * WAD // 100 // math.YEAR_S
    market = replace(MARKET, lltv_wad=LISTING.markets[0].lltv_wad)
    rate = math.adaptive_rate_wad(market, at_target, AT.timestamp_s)
    words = world_words([[*STATE, at_target, rate], [*STATE, at_target, rate + 1]], PRICES, ROUNDS)
    world = codec.decode_world(words, LISTING)
    assert [(each.rate_wad, each.at_target_wad) for each in world.stored] == [
        (rate, at_target),
        (rate + 1, None),
    ]
    assert world.at == AT


def test_what_is_not_answered_is_not_known() -> None:
    none = codec.NONE
    words = world_words(
        [[*STATE, none, none], [*STATE, none, 7]], (0, none, 5), ((2**256 - 1, none), (10**8, 9))
    )
    world = codec.decode_world(words, LISTING)
    assert [each.up_to(AT.timestamp_s) is None for each in world.stored] == [True, False]
    assert world.prices == {OTHER_ORACLE: 5}
    assert list(world.heard) == [USDC_USD]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        world_words([STATE], PRICES, ROUNDS),
        world_words([[*STATE, 0, 0], [*STATE[:2], 0, 0, 0]], PRICES, ROUNDS),
        world_words([[*STATE, 0, 0], [*STATE[:2], (AT.timestamp_s + 1) << 128, 0, 0]], PRICES, ROUNDS),
    ],
    ids=["nothing", "too little", "a market that is not there", "a market of a later time"],
)
def test_what_is_no_world_is_a_fault_of_the_chain(answer: bytes) -> None:
    with pytest.raises(ChainFault):
        codec.decode_world(answer, LISTING)


# --- the listing ---------------------------------------------------------------------------------


def listed(change: Callable[[dict[tuple[str, str], bytes]], None] = lambda _: None) -> Listing:
    """Read the listing of a chain that has it, but for a change."""
    address, nobody = "address", "0x" + "00" * 20
    told = {(MORPHO, "idToMarketParams" + each.id.hex()): each.params for each in LISTING.markets}
    answers = {
        key: encode(["(address,address,address,address,uint256)"], [params]) for key, params in told.items()
    }
    for pre in PRES:
        terms = (pre.lltv_wad, *pre.close_wad, *pre.incentive_wad, pre.oracle)
        answers[pre.address, "MORPHO"] = encode([address], [MORPHO])
        answers[pre.address, "ID"] = FIRST
        answers[pre.address, "preLiquidationParams"] = encode(
            ["(uint256,uint256,uint256,uint256,uint256,address)"], [terms]
        )
    for token, decimals in ((WETH, 18), (WBTC, 8), (USDC, 6), (ETH_USD, 8), (USDC_USD, 8)):
        answers[token, "decimals"] = encode(["uint8"], [decimals])
    for oracle, feeds in ((ORACLE, (ETH_USD, USDC_USD)), (PRE_ORACLE, (ETH_USD, nobody))):
        for side, feed in zip(("BASE", "QUOTE"), feeds, strict=True):
            answers[oracle, f"{side}_FEED_1"] = encode([address], [feed])
            answers[oracle, f"{side}_FEED_2"] = encode([address], [nobody])
    answers[ETH_USD, "description"] = encode(["string"], ["ETH / USD"])
    answers[USDC_USD, "description"] = encode(["string"], ["USDC / USD"])
    change(answers)
    return answered(read_listing(CHOSEN), answers)


def answered(
    rounds: Generator[list[Call], list[bytes], Listing], answers: dict[tuple[str, str], bytes]
) -> Listing:
    [call] = next(rounds)
    while True:
        try:
            [call] = rounds.send([tried_answer(call, answers)])
        except StopIteration as done:
            listing: Listing = done.value
            return listing


def tried_answer(call: Call, answers: Mapping[tuple[str, str], bytes]) -> bytes:
    """Answer what can be, by address and name of the question."""
    names = ("MORPHO", "ID", "preLiquidationParams", "decimals", "description")
    getters = {
        keccak(text=f"{name}()")[:4]: name
        for name in (*names, *(f"{s}_FEED_{n}" for s in ("BASE", "QUOTE") for n in (1, 2)))
    }
    addresses, questions = tried_arguments(call)
    found = [
        answers.get((to, getters.get(data[:4], "idToMarketParams" + data[4:].hex())), b"")
        for to, data in zip(addresses, questions, strict=True)
    ]
    return encode(load("readers", "MorphoReader").functions["tried"].outputs, [found])


def tried_arguments(call: Call) -> tuple[Any, ...]:
    tried = load("readers", "MorphoReader").functions["tried"]
    assert call.data[:4] == tried.selector
    return replace(tried, outputs=tried.inputs).result(call.data[4:])


def test_a_listing_is_read_with_terms_feeds_and_decimals() -> None:
    found = listed()
    assert found.markets == LISTING.markets
    assert (found.decimals, found.paths, found.feeds) == (LISTING.decimals, LISTING.paths, LISTING.feeds)
    assert found.untraced == (f"oracle {OTHER_ORACLE}: no feed of it is known",)
    assert found.mark == LISTING.mark


def test_a_token_is_valued_by_a_feed_that_is_read_on_chain() -> None:
    answers: dict[tuple[str, str], bytes] = {}
    listed(answers.update)
    answered(read_listing(replace(CHOSEN, tokens={USDC: "USDC/USD"})), answers)
    with pytest.raises(ConfigError, match=f"{USDC} cannot be valued on chain.*is DAI/USD"):
        answered(read_listing(replace(CHOSEN, tokens={USDC: "DAI/USD"})), answers)


def test_an_oracle_may_be_taken_for_one_feed() -> None:
    chosen = replace(CHOSEN, feeds={OTHER_ORACLE: "BTC/USDC"})
    answers: dict[tuple[str, str], bytes] = {}
    listed(answers.update)
    found = answered(read_listing(chosen), answers)
    assert found.paths[OTHER_ORACLE] == Path((OTHER_ORACLE,))
    assert found.named[OTHER_ORACLE] == Feed(OTHER_ORACLE, "BTC/USDC", 36 + 6 - 8, is_oracle=True)
    words = world_words([[*STATE, 0, 0]] * 2, PRICES, (*ROUNDS, (codec.NONE, codec.NONE)))
    world = codec.decode_world(words, found)
    assert world.heard[OTHER_ORACLE].price_wad == PRICE * WAD // 10**34
    assert world.heard[OTHER_ORACLE].answered_at_s == AT.timestamp_s


@pytest.mark.parametrize(
    ("key", "answer", "said"),
    [
        ((MORPHO, "idToMarketParams" + SECOND.hex()), b"", "expected a market 0x" + SECOND.hex()),
        ((MORPHO, "idToMarketParams" + SECOND.hex()), bytes(160), "expected a market 0x" + SECOND.hex()),
        ((LATE, "ID"), b"", "does not answer as a pre-liquidation contract"),
        ((LATE, "ID"), bytes(32), "which is not listed"),
        ((LATE, "MORPHO"), encode(["address"], [LATE]), "is of the Morpho at"),
    ],
)
def test_a_listing_that_does_not_hold_together_is_refused(
    key: tuple[str, str], answer: bytes, said: str
) -> None:
    with pytest.raises(ChainFault, match=said):
        listed(lambda found: found.update({key: answer}))


def test_two_markets_that_a_row_cannot_tell_apart_are_refused_by_name() -> None:
    twin = "0x" + (FIRST[:12] + bytes(20)).hex()
    with pytest.raises(ConfigError, match=f"{CHOSEN.markets[0]} and {twin}"):
        Chosen(MORPHO, (*CHOSEN.markets, twin))
    with pytest.raises(ConfigError, match="at least one market"):
        Chosen(MORPHO, ())


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ("0x08c379a0" + encode(["string"], ["position is healthy"]).hex(), "position is healthy"),
        ("0x4e487b71" + encode(["uint256"], [0x11]).hex(), "Panic(17)"),
        (
            "0x"
            + (
                keccak(text="PreLiquidationTooLarge(uint256,uint256)")[:4] + encode(["uint256"] * 2, [9, 8])
            ).hex(),
            "PreLiquidationTooLarge(9, 8)",
        ),
        ("0x" + keccak(text="LiquidatablePosition()")[:4].hex(), "LiquidatablePosition()"),
        ("0x08c379a0ff", "Error, unreadable: 0x08c379a0ff"),
        ("0xdeadbeef01", "unknown error 0xdeadbeef01"),
        ("0x", "reverted without a reason"),
        ("execution reverted", "execution reverted"),
    ],
)
def test_a_revert_is_told_in_the_contracts_own_words(evidence: str, words: str) -> None:
    explained = MorphoMarket(LISTING).explain(Refuse(Reason("simulation.reverted", evidence, "bound")))
    assert explained == Refuse(Reason("simulation.reverted", words, "bound"))
