"""Logs, answers and reverts of a pool in words; what cannot be read is a fault of the chain."""

from dataclasses import replace

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.abi import Event
from keeper.domain import Log
from keeper.errors import ChainFault, ConfigError
from keeper.protocols.aave_v3 import codec
from keeper.protocols.aave_v3.abi import POOL_EVENTS, READER, TRANSFERRED
from keeper.protocols.aave_v3.math import RAY, Category, Rules, Unmet
from keeper.protocols.aave_v3.oracles import Trace
from keeper.protocols.aave_v3.params import BASE_UNIT, decode_listing, read_deployment
from tests.unit.protocols.aave_v3.pools import (
    LINK,
    NOW_S,
    POOL,
    POOLED,
    UNPRICED,
    USDC,
    WETH,
    at,
    deployment,
    key,
    owner,
    token,
    world_answer,
)

EVENTS = {event.name: event for event in POOL_EVENTS}
HERE = deployment()


def log(event: Event, *values: object, address: str = POOL) -> Log:
    typed = list(zip(event.parameters, values, strict=True))
    topics = [encode([kind], [value]) for (_, kind, indexed), value in typed if indexed]
    plain = [(kind, value) for (_, kind, indexed), value in typed if not indexed]
    data = encode([kind for kind, _ in plain], [value for _, value in plain])
    return Log(address, (event.topic, *topics), data, 7, "0xblock", "0xtx", 3)


# --- logs ----------------------------------------------------------------------------------------

A, B, C = owner(1), owner(2), owner(3)


@pytest.mark.parametrize(
    ("name", "values", "touched"),
    [
        ("Supply", (token(0), A, B, 5, 0), [B]),
        ("MintUnbacked", (token(0), A, B, 5, 0), [B]),
        ("Borrow", (token(0), A, B, 5, 2, 10**25, 0), [B]),
        ("Repay", (token(0), A, B, 5, True), [A, B]),
        ("Repay", (token(0), A, A, 5, False), [A]),
        ("Withdraw", (token(0), A, B, 5), [A]),
        ("LiquidationCall", (token(0), token(1), A, 5, 6, B, False), [A]),
        ("ReserveUsedAsCollateralEnabled", (token(0), A), [A]),
        ("ReserveUsedAsCollateralDisabled", (token(0), A), [A]),
        ("UserEModeSet", (A, 3), [A]),
        ("SwapBorrowRateMode", (token(0), A, 1), [A]),
        ("RebalanceStableBorrowRate", (token(0), A), [A]),
        ("DeficitCovered", (token(0), A, 5), [A]),
    ],
)
def test_an_event_of_the_pool_touches_whose_row_it_changes(
    name: str, values: tuple[object, ...], touched: list[str]
) -> None:
    fact = codec.decode(log(EVENTS[name], *values), HERE)
    assert fact is not None
    assert (fact.act, fact.block, fact.log_index) == (name, 7, 3)
    assert [codec.owner_of(each) for each in fact.touched] == touched


def test_every_event_has_a_case_above() -> None:
    assert len(EVENTS) == len(POOL_EVENTS) == 12


def test_a_transfer_of_receipts_touches_both() -> None:
    atoken = HERE.reserves[LINK].atoken
    fact = codec.decode(log(TRANSFERRED, A, B, 5, RAY, address=atoken.upper().replace("0X", "0x")), HERE)
    assert fact is not None
    assert fact.touched == (key(1), key(2))


def test_what_others_say_is_not_heard() -> None:
    assert codec.decode(log(TRANSFERRED, A, B, 5, RAY, address=at(0xA7, 9)), HERE) is None
    assert codec.decode(log(EVENTS["UserEModeSet"], A, 1, address=at(0xA7, LINK)), HERE) is None
    assert codec.decode(Log(POOL, (), b"", 7, "", "", 0), HERE) is None
    assert codec.decode(Log(POOL, (bytes(32),), b"", 7, "", "", 0), HERE) is None


def test_a_log_that_is_cut_short_is_a_fault_of_the_chain() -> None:
    whole = log(EVENTS["Withdraw"], token(0), A, B, 5)
    for cut in (replace(whole, data=whole.data[:-1]), replace(whole, topics=whole.topics[:-1])):
        with pytest.raises(ChainFault, match="expected Withdraw to give"):
            codec.decode(cut, HERE)


# --- the world -----------------------------------------------------------------------------------


def test_accounts_are_asked_for_by_their_owners() -> None:
    asked = codec.rows_call(HERE, [key(1), key(2)])
    assert asked == READER["rows"].call(HERE.reader, POOL, [owner(1), owner(2)])


def test_a_world_is_read_to_the_unit() -> None:
    weth = replace(POOLED[WETH], is_paused=True, grace_until_s=NOW_S + 9, liquid=77, category=5)
    world = codec.decode_world(world_answer({**POOLED, WETH: weth}, allows=False), HERE)
    read = world.stored.reserves[WETH]
    assert (read.price, read.decimals, read.threshold_bps, read.bonus_bps) == (
        2_000 * 10**8,
        18,
        8_000,
        10_500,
    )
    assert (read.fee_bps, read.liquid, read.is_active, read.is_paused) == (1_000, 77, True, True)
    assert (read.grace_until_s, read.income_ray) == (NOW_S + 9, RAY)
    assert not world.stored.sentinel_allows
    assert world.version == HERE.version
    assert world.tokens == {WETH: token(WETH), USDC: token(USDC), LINK: token(LINK)}
    assert world.answers[at(0xCE, WETH)] == codec.Answer(2_000 * 10**18, NOW_S - 60)


def test_a_number_that_is_free_is_no_reserve() -> None:
    world = codec.decode_world(world_answer(), HERE)
    assert len(world.stored.reserves) == 4
    assert not world.stored.reserves[2].is_active
    assert 2 not in world.tokens


def test_indices_are_carried_from_where_they_are_stored() -> None:
    year_s = 365 * 86_400
    usdc = replace(POOLED[USDC], debt_rate_ray=RAY // 10, updated_at_s=NOW_S - year_s)
    world = codec.decode_world(world_answer({**POOLED, USDC: usdc}), HERE)
    assert world.now.reserves[USDC].debt_ray == 1_105_166_666_666_666_666_666_666_667
    later = world.at(NOW_S + 12)
    assert later.now.at_s == NOW_S + 12
    assert later == world.at(NOW_S + 5).at(NOW_S + 12)


def test_a_feed_that_gives_no_answer_has_none() -> None:
    world = codec.decode_world(world_answer(answers=((0, 0), (10 * BASE_UNIT, NOW_S))), HERE)
    assert world.answers.keys() == {at(0xCE, LINK)}


def test_an_answer_too_small_to_count_is_none() -> None:
    fine = replace(HERE, traces={WETH: (Trace("ETH/USD", at(0xCE, WETH), 36),)})
    assert codec.decode_world(world_answer(answers=((9, NOW_S),)), fine).answers == {}


def test_e_mode_categories_of_both_versions_are_read() -> None:
    told = [
        (1, 9_300, 10_100, 0b1001, 0),
        (2, 9_000, 10_200, 0b10, 3 * BASE_UNIT),
        (7, 9_100, 10_300, 1, UNPRICED),
    ]
    world = codec.decode_world(world_answer(rules=Rules.V3_0, categories=told), deployment(Rules.V3_0))
    assert world.stored.rules is Rules.V3_0
    assert world.stored.categories == {
        1: Category(9_300, 10_100, 0b1001),
        2: Category(9_000, 10_200, 0b10, 3 * BASE_UNIT),
        7: Category(9_100, 10_300, 1),
    }
    assert world.silent == {7}


def test_another_revision_is_another_version() -> None:
    assert codec.decode_world(world_answer(revision=11), HERE).version != HERE.version


def test_a_listing_before_this_one_is_read_all_the_same() -> None:
    world = codec.decode_world(world_answer({9: POOLED[WETH]}), HERE)
    assert world.version != HERE.version


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (world_answer()[:-32], "world"),
        (b"", "world"),
        (world_answer(answers=()), "2 answers of feeds, found 4 and 0 words"),
        (world_answer({**POOLED, 200: POOLED[WETH]}), "reserves of different numbers"),
        (world_answer({WETH: replace(POOLED[WETH], updated_at_s=NOW_S + 1)}), "found some of"),
        (world_answer(categories=[(256, 1, 1, 1, 0)]), "e-mode categories below 256"),
        (encode(READER["world"].outputs, [[NOW_S, 10, 1, BASE_UNIT], [1], [], [0] * 4]), "rows of 6 words"),
        (encode(READER["world"].outputs, [[NOW_S, 10, 1], [], [], [0] * 4]), "found 3 and 4 words"),
        (encode(READER["world"].outputs, [[NOW_S, 10, 1, 1], [0] * 12, [], [0] * 4]), "different numbers"),
    ],
)
def test_what_is_no_world_is_a_fault_of_the_chain(broken: bytes, found: str) -> None:
    with pytest.raises(ChainFault, match=found):
        codec.decode_world(broken, HERE)


# --- the listing ---------------------------------------------------------------------------------


def listing(*rows: tuple[int, ...], revision: int = 10, unit: int = BASE_UNIT) -> bytes:
    return encode(READER["listing"].outputs, [[revision, unit], [word for row in rows for word in row]])


def test_a_listing_is_read_and_its_prices_are_traced() -> None:
    weth = [int(at(kind, WETH), 16) for kind in (0xAA, 0xA7, 0xDE, 0xCE)]
    rounds = read_deployment(POOL.upper().replace("0X", "0x"), {token(WETH): "ETH/USD"}, HERE.reader)
    [call] = next(rounds)
    assert call.to == HERE.reader
    rounds.send([listing((WETH, *weth))])
    answers = [b"", encode(["uint8"], [8]), bytes(160), *[b""] * 5]
    with pytest.raises(StopIteration) as ended:
        rounds.send([encode(["bytes[]"], [answers])])
    found = ended.value.value
    assert (found.pool, found.rules) == (POOL, Rules.V3_6)
    assert found.reserves == {WETH: HERE.reserves[WETH]}
    assert found.traces == {WETH: HERE.traces[WETH]}


def test_rules_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected an Aave pool of revision \[1, 2, 3, 10\], found 11"):
        decode_listing(listing(revision=11))
    with pytest.raises(ConfigError, match="counts in 1e8 to the dollar, found 1000"):
        decode_listing(listing(unit=1_000))


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (b"", "listing"),
        (listing((0, 1, 2, 3)), "expected 5 words a reserve, found 4"),
        (listing((0, 1, 2, 3, 4), (0, 1, 2, 3, 4)), "reserves of different numbers"),
        (listing((128, 1, 2, 3, 4)), "reserves of different numbers"),
    ],
)
def test_what_is_no_listing_is_a_fault_of_the_chain(broken: bytes, found: str) -> None:
    with pytest.raises(ChainFault, match=found):
        decode_listing(broken)


# --- reverts -------------------------------------------------------------------------------------


def words(text: str) -> bytes:
    return bytes.fromhex("08c379a0") + encode(["string"], [text])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "reverted without a reason"),
        (keccak(text="HealthFactorNotBelowThreshold()")[:4], "HealthFactorNotBelowThreshold"),
        (keccak(text="MustNotLeaveDust()")[:4], "MustNotLeaveDust"),
        (words("45"), "HealthFactorNotBelowThreshold (45)"),
        (words("GPv2: failed transferFrom"), "GPv2: failed transferFrom"),
        (bytes.fromhex("4e487b71") + (0x11).to_bytes(32), "Panic(0x11)"),
        (bytes.fromhex("4e487b71"), "unreadable: 0x4e487b71"),
        (words("45")[:-32], f"unreadable: 0x{words('45')[:-32].hex()}"),
        (b"\x01\x02\x03\x04", "unknown error 0x01020304"),
    ],
)
def test_a_revert_is_told_by_the_pools_own_name(data: bytes, name: str) -> None:
    assert codec.revert_name(data) == name


def test_a_refusal_foreseen_has_the_name_of_its_revert() -> None:
    for unmet in Unmet:
        name, number = unmet.value
        if unmet is Unmet.ILLIQUID:
            data = bytes.fromhex("4e487b71") + (0x11).to_bytes(32)
            assert codec.refusal_name(unmet, Rules.V3_6) == codec.revert_name(data)
            continue
        assert codec.refusal_name(unmet, Rules.V3_6) == codec.revert_name(keccak(text=f"{name}()")[:4])
        if number:
            assert codec.refusal_name(unmet, Rules.V3_0) == codec.revert_name(words(number))
