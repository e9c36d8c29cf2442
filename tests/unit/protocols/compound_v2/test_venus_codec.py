"""Between bytes and words: logs, acts, answers and refusals of a pool of Venus."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.abi import Function, artifact, function, load
from keeper.domain import Call, Log, Reason, Refuse, TakeOver
from keeper.errors import ChainFault, InvariantBroken
from keeper.lending.feeds import Feed
from keeper.lending.flash import Kind, flash_call
from keeper.lending.routes import Hop, Pool
from keeper.lending.words import Approve, By, Flash, Heal, Lender, Order, Redeem, Repay, RepayAll, Way
from keeper.protocols.compound_v2 import codec
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.compound_v2.math import Action
from keeper.protocols.compound_v2.params import Chosen, Listed, Listing, read_listing
from tests.unit.protocols.compound_v2.made import (
    AT,
    CHOSEN,
    COMPTROLLER,
    ETH_USD,
    HEARD,
    KEY,
    LISTING,
    MARKET,
    OF_USDC,
    ORACLE,
    OWNER,
    POOL,
    READER,
    USDC,
    USDC_USD,
    V_USDC,
    V_WETH,
    WETH,
    WORLD,
    market_words,
    world_words,
)

WHO, OTHER, NOBODY = "0x" + OWNER.hex(), "0x" + "b6" * 20, "0x" + "00" * 20
ADDRESS, AMOUNT = "address", "uint256"


def log_of(address: str, signature: str, *topics: str, data: bytes = b"") -> Log:
    words = tuple(bytes(12) + bytes.fromhex(each[2:]) for each in topics)
    return Log(address, (keccak(text=signature), *words), data, 5, "0x05", "0xaa", 3)


# --- logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "act", "owners"),
    [
        (
            log_of(
                V_USDC, "Borrow(address,uint256,uint256,uint256)", WHO, data=encode([AMOUNT] * 3, [1, 2, 3])
            ),
            "Borrow",
            [WHO],
        ),
        (
            log_of(
                V_USDC,
                "RepayBorrow(address,address,uint256,uint256,uint256)",
                OTHER,
                WHO,
                data=encode([AMOUNT] * 3, [1, 2, 3]),
            ),
            "RepayBorrow",
            [WHO],
        ),
        (
            log_of(V_WETH, "Transfer(address,address,uint256)", WHO, OTHER, data=bytes(32)),
            "Transfer",
            [WHO, OTHER],
        ),
        (log_of(V_WETH, "Transfer(address,address,uint256)", NOBODY, WHO, data=bytes(32)), "Transfer", [WHO]),
        (log_of(V_WETH, "Transfer(address,address,uint256)", V_WETH, WHO, data=bytes(32)), "Transfer", [WHO]),
        (
            log_of(V_USDC, "HealBorrow(address,address,uint256)", OTHER, WHO, data=bytes(32)),
            "HealBorrow",
            [WHO],
        ),
        (log_of(COMPTROLLER, "MarketExited(address,address)", V_WETH, WHO), "MarketExited", [WHO]),
    ],
)
def test_an_event_touches_the_accounts_that_it_changes(log: Log, act: str, owners: list[str]) -> None:
    fact = codec.decode(log, LISTING)
    assert fact is not None
    assert (fact.act, fact.touched) == (act, tuple(codec.key_of(each) for each in owners))
    assert (fact.block, fact.log_index, fact.tx_hash) == (5, 3, "0xaa")


def test_what_changes_no_account_is_passed_over() -> None:
    transfer = log_of(V_WETH, "Transfer(address,address,uint256)", WHO, OTHER, data=bytes(32))
    for log in (
        log_of(V_WETH, "AccrueInterest(uint256,uint256,uint256,uint256)", data=bytes(128)),
        replace(transfer, address=WETH),
        replace(transfer, address=COMPTROLLER),
        replace(transfer, topics=()),
    ):
        assert VenusMarket(LISTING).decode(log) is None


def test_a_garbled_log_is_a_fault_of_the_chain() -> None:
    with pytest.raises(ChainFault, match="expected Borrow"):
        codec.decode(log_of(V_USDC, "Borrow(address,uint256,uint256,uint256)", WHO, data=b"\x01"), LISTING)


# --- acts ----------------------------------------------------------------------------------------

WAY = Way(V_USDC, USDC, WETH, 0, 0, V_WETH)


def test_each_act_is_the_call_that_it_means() -> None:
    orders = (Order(V_WETH, V_USDC, 7), Order(V_USDC, V_USDC, 8))
    acts: dict[object, tuple[str, str, list[object]]] = {
        Repay(KEY, WAY, By.REPAID, 7, 7): (
            V_USDC,
            "liquidateBorrow(address,uint256,address)",
            [WHO, 7, V_WETH],
        ),
        RepayAll(KEY, orders): (
            COMPTROLLER,
            "liquidateAccount(address,(address,address,uint256)[])",
            [WHO, [(V_WETH, V_USDC, 7), (V_USDC, V_USDC, 8)]],
        ),
        Heal(KEY): (COMPTROLLER, "healAccount(address)", [WHO]),
        Redeem(KEY, V_WETH, 9): (V_WETH, "redeem(uint256)", [9]),
        Approve(KEY, USDC, V_USDC, 7): (USDC, "approve(address,uint256)", [V_USDC, 7]),
    }
    for act, (to, signature, arguments) in acts.items():
        expected = Call(to, keccak(text=signature)[:4] + encode(function(signature).inputs, arguments))
        assert VenusMarket(LISTING).encode(act) == expected  # type: ignore[arg-type]


def test_a_loan_for_one_transaction_goes_to_our_own_contract() -> None:
    hop = Hop(Pool("0x" + "90" * 20, WAY.collateral, WAY.debt, 500), WAY.collateral)
    act = Repay(KEY, WAY, By.REPAID, 7, 7, Flash(OTHER, Lender.MORPHO, "", (hop,), 0))
    assert VenusMarket(LISTING).encode(act) == flash_call(act, Kind.COMPOUND_V2)


def test_an_act_that_a_pool_does_not_know_is_a_mistake_of_ours() -> None:
    plain = Repay(KEY, WAY, By.REPAID, 7, 7)
    wrong = (
        replace(plain, by=By.SHARES),
        TakeOver(KEY, "ETH", 1),
    )
    for act in wrong:
        with pytest.raises(InvariantBroken):
            VenusMarket(LISTING).encode(act)


# --- answers -------------------------------------------------------------------------------------


def test_rows_are_asked_for_with_vtokens_that_tell_how_they_store_debts() -> None:
    rows = load("readers", "VenusReader").functions["rows"]
    call = codec.rows_call([KEY], LISTING)
    plain = rows.call(READER, COMPTROLLER, [V_WETH, V_USDC], [KEY], 217)
    teller = artifact("readers", "VTokenTeller")["deployedBytecode"]
    assert call == replace(plain, codes=((V_WETH, teller), (V_USDC, teller)))


def test_the_world_is_the_pool_with_prices_and_answers() -> None:
    assert codec.decode_world(world_words(), LISTING) == WORLD


def test_what_is_paused_or_forced_comes_with_its_market() -> None:
    stopped = replace(MARKET, paused=frozenset({Action.SEIZE, Action.LIQUIDATE}), is_forced=True)
    world = codec.decode_world(world_words([market_words(stopped), market_words(OF_USDC)]), LISTING)
    assert world.pool.markets[0] == stopped


@pytest.mark.parametrize("price", [0, codec.NONE])
def test_a_price_of_zero_or_none_leaves_its_market_without_one(price: int) -> None:
    words = [price, *market_words(MARKET)[1:]]
    found = codec.decode_world(world_words([words, market_words(OF_USDC)]), LISTING)
    assert (found.unpriced, found.pool.markets[0].price) == (frozenset({0}), 0)


def test_a_whole_price_is_taken_for_the_answer_of_its_own_feed() -> None:
    named = replace(LISTING, feeds=(Feed(WETH, "ETH/USD", 18, is_oracle=True), LISTING.feeds[1]))
    words = world_words(rounds=((codec.NONE, codec.NONE), (10**8, AT.timestamp_s - 600)))
    heard = codec.decode_world(words, named).heard
    assert heard[WETH] == replace(HEARD[ETH_USD], answered_at_s=AT.timestamp_s)


def test_a_feed_that_does_not_answer_is_not_heard() -> None:
    words = world_words(rounds=((codec.NONE, codec.NONE), (10**8, AT.timestamp_s - 600)))
    assert list(codec.decode_world(words, LISTING).heard) == [USDC_USD]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "expected world"),
        (world_words([market_words(MARKET)]), "expected 40 words of 2 markets, found 25"),
        (
            world_words(
                [[*market_words(MARKET)[:7], 10**28 + 1, *market_words(MARKET)[8:]], market_words(OF_USDC)]
            ),
            "expected the exchange rate of",
        ),
    ],
    ids=["nothing", "too little", "an exchange rate of another formula"],
)
def test_what_is_no_world_is_a_fault_of_the_chain(answer: bytes, said: str) -> None:
    with pytest.raises(ChainFault, match=said):
        codec.decode_world(answer, LISTING)


# --- the listing ---------------------------------------------------------------------------------

Chain = dict[tuple[str, str], bytes]
MAIN = "0x" + "3a" * 20


def chain() -> Chain:
    """Answers by contract and function, or function and token."""
    config = f"({ADDRESS},{ADDRESS}[3],bool[3],bool)"
    found: Chain = {
        (COMPTROLLER, "getAllMarkets"): encode(["address[]"], [[V_WETH, V_USDC]]),
        (COMPTROLLER, "oracle"): encode([ADDRESS], [ORACLE]),
        (READER, "listing"): encode([AMOUNT], [77]),
        (V_WETH, "underlying"): encode([ADDRESS], [WETH]),
        (V_USDC, "underlying"): encode([ADDRESS], [USDC]),
        (V_WETH, "isTimeBased"): encode(["bool"], [False]),
        (WETH, "decimals"): encode(["uint8"], [18]),
        (USDC, "decimals"): encode(["uint8"], [6]),
    }
    for token, feed, pair in ((WETH, ETH_USD, "ETH / USD"), (USDC, USDC_USD, "USDC / USD")):
        sources = (token, (MAIN, NOBODY, NOBODY), (True, False, False), False)
        found[ORACLE, f"getTokenConfig {token}"] = encode([config], [sources])
        found[MAIN, f"tokenConfigs {token}"] = encode([ADDRESS, ADDRESS, AMOUNT], [token, feed, 3_600])
        found[feed, "description"] = encode(["string"], [pair])
        found[feed, "decimals"] = encode(["uint8"], [8])
    return found


ASKED = {
    each.selector: each
    for each in map(
        function,
        (
            "getAllMarkets()",
            "oracle()",
            "listing(address)",
            "underlying()",
            "isTimeBased()",
            "decimals()",
            "getTokenConfig(address)",
            "tokenConfigs(address)",
            "description()",
        ),
    )
}


def listed(answers: Chain, chosen: Chosen = CHOSEN) -> Listing:
    """Carry the reading out on a chain that gives these answers."""
    rounds = read_listing(chosen)
    [call] = next(rounds)
    while True:
        try:
            [call] = rounds.send([tried_answer(call, answers)])
        except StopIteration as done:
            found: Listing = done.value
            return found


def tried_answer(call: Call, answers: Chain) -> bytes:
    """Answer what can be, by address and name of the question."""
    tried = load("readers", "VenusReader").functions["tried"]
    assert call.data[:4] == tried.selector
    addresses, questions = replace(tried, outputs=tried.inputs).result(call.data[4:])
    told = [
        answers.get((to, name(ASKED[data[:4]], data)), b"")
        for to, data in zip(addresses, questions, strict=True)
    ]
    return encode(tried.outputs, [told])


def name(asked: Function, data: bytes) -> str:
    is_of_token = asked.inputs and asked.name != "listing"
    return f"{asked.name} 0x{data[-20:].hex()}" if is_of_token else asked.name


def test_a_listing_is_read_with_the_feeds_of_its_prices() -> None:
    assert listed(chain()) == LISTING


def test_a_token_whose_price_is_named_follows_itself() -> None:
    chosen = replace(CHOSEN, feeds={WETH: "WETH/USD", USDC: ""})
    found = listed(chain(), chosen)
    assert found.markets == (Listed(V_WETH, WETH, WETH), Listed(V_USDC, USDC, ""))
    assert found.feeds == (Feed(WETH, "WETH/USD", 18, is_oracle=True),)
    assert found.untraced == (f"token {USDC}: no feed of it is known",)


def without(key: tuple[str, str]) -> Chain:
    return {each: answer for each, answer in chain().items() if each != key}


def test_what_cannot_be_traced_is_named_and_keeps_the_chains_price() -> None:
    bare = listed(without((ORACLE, f"getTokenConfig {WETH}")))
    assert bare.untraced == (f"token {WETH}: no feed of it is known",)
    assert bare.markets[0].feed == ""
    nameless = listed(without((ETH_USD, "description")))
    assert nameless.untraced == (
        f"token {WETH}: no feed of it is known",
        f"feed {ETH_USD}: no pair in its description",
    )
    unscaled = listed(without((WETH, "decimals")), replace(CHOSEN, feeds={WETH: "WETH/USD"}))
    assert unscaled.untraced == (f"token {WETH}: no feed of it is known",)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (lambda: without((COMPTROLLER, "oracle")), "does not answer as a Comptroller"),
        (
            lambda: {**chain(), (COMPTROLLER, "getAllMarkets"): encode(["address[]"], [[]])},
            "that has markets",
        ),
        (lambda: without((V_USDC, "underlying")), f"{V_USDC} does not answer as a vToken"),
        (lambda: {**chain(), (V_USDC, "isTimeBased"): encode(["bool"], [True])}, "others seconds"),
    ],
)
def test_a_pool_that_does_not_hold_together_is_refused(answers: Callable[[], Chain], said: str) -> None:
    with pytest.raises(ChainFault, match=said):
        listed(answers())


def test_a_pool_may_count_seconds() -> None:
    timed = encode(["bool"], [True])
    found = listed({**chain(), (V_WETH, "isTimeBased"): timed, (V_USDC, "isTimeBased"): timed})
    assert (found.clock(AT), LISTING.clock(AT)) == (AT.timestamp_s, AT.block)
    assert POOL.up_to(AT.block) == POOL


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ("0x" + keccak(text="TooMuchRepay()")[:4].hex(), "TooMuchRepay()"),
        (
            "0x"
            + (
                keccak(text="MinimalCollateralViolated(uint256,uint256)")[:4] + encode([AMOUNT] * 2, [9, 8])
            ).hex(),
            "MinimalCollateralViolated(9, 8)",
        ),
        ("0x08c379a0" + encode(["string"], ["LIQUIDATE_SEIZE_TOO_MUCH"]).hex(), "LIQUIDATE_SEIZE_TOO_MUCH"),
        ("0x08c379a0ff", "Error, unreadable: 0x08c379a0ff"),
        ("0xdeadbeef", "unknown error 0xdeadbeef"),
        ("0x", "reverted without a reason"),
        ("out of gas", "out of gas"),
    ],
)
def test_a_revert_is_told_in_the_contracts_own_words(evidence: str, words: str) -> None:
    explained = VenusMarket(LISTING).explain(Refuse(Reason("simulation.reverted", evidence, "bound")))
    assert explained == Refuse(Reason("simulation.reverted", words, "bound"))
