"""Calldata, logs, answers, errors and signatures, against eth_abi, eth_account and the published ABIs."""

import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
from coincurve import PublicKey
from eth_abi.abi import decode, encode
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from keeper.abi import Event
from keeper.domain import (
    ArrayView,
    BucketView,
    BuyCollateral,
    Call,
    Clear,
    Confirm,
    Cure,
    Expire,
    FeedView,
    Flag,
    Globals,
    HybridAct,
    Kind,
    Liquidate,
    Log,
    Observation,
    OracleView,
    Poke,
    Report,
    Settle,
    WriteOff,
)
from keeper.errors import ChainFault
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.abi import CONTRACTS, artifact, load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import (
    Collateral,
    Deployment,
    Listed,
    Ramp,
    SlopeParams,
    feed_bytes,
    feed_name,
    read_deployment,
)
from keeper.protocols.hybrid.signing import (
    Order,
    order_digest,
    read_report,
    report_digest,
    report_fields,
    sign_order,
    sign_report,
)
from keeper.units import WAD
from tests.unit.protocols.hybrid.books import OPTIONS, OWNER, PERPS, PRICES, SLOPE, TAKER, deployment

DEPLOYMENT = deployment()
SPOKEN = [
    (contract, codec._address(DEPLOYMENT, contract), name)
    for contract, events in codec._EVENTS.items()
    for name in events
]
SAMPLES: Mapping[str, Any] = {
    "bytes32": bytes(range(32)),
    "bytes4": b"\1\2\3\4",
    "address": "0x" + "ab" * 20,
    "uint8": 2,
    "uint16": 65_535,
    "uint40": 2**40 - 1,
    "uint128": 2**128 - 1,
    "uint256": 2**255 + 1,
    "int256": -(2**255),
    "uint256[]": (1, 2**256 - 1),
}
ACCOUNTS = {"acct", "taker", "long", "short"}


def log_of(address: str, event: Event, values: Sequence[Any]) -> Log:
    """Lay a log out as the EVM does."""
    rows = list(zip(event.parameters, values, strict=True))
    indexed = [encode([kind], [value]) for (_, kind, is_indexed), value in rows if is_indexed]
    plain = [(kind, value) for (_, kind, is_indexed), value in rows if not is_indexed]
    data = encode([kind for kind, _ in plain], [value for _, value in plain])
    return Log(address, (event.topic, *indexed), data, 7, "0xb", "0xt", 2)


@pytest.mark.parametrize(("contract", "address", "name"), SPOKEN)
def test_every_event_comes_back_as_it_was_sent(contract: str, address: str, name: str) -> None:
    event = load(contract).events[name]
    values = [SAMPLES[kind] for _, kind, _ in event.parameters]
    fact = codec.decode(log_of(address.upper().replace("X", "x"), event, values), DEPLOYMENT)
    assert fact is not None
    assert (fact.act, fact.block, fact.tx_hash, fact.log_index) == (name, 7, "0xt", 2)
    feed = feed_name(SAMPLES["bytes32"])
    expected = [feed if key == "feed" else value for key, value in zip(fact.args, values, strict=True)]
    assert list(fact.args.values()) == expected
    accounts = [name for name, *_ in event.parameters if name in ACCOUNTS]
    assert fact.touched == (SAMPLES["bytes32"],) * len(accounts)


@pytest.mark.parametrize(("contract", "address", "name"), SPOKEN)
def test_topics_are_the_hashes_of_the_published_signatures(contract: str, address: str, name: str) -> None:
    del address
    (part,) = [p for p in artifact(contract)["abi"] if p["type"] == "event" and p["name"] == name]
    signature = f"{name}({','.join(p['type'] for p in part['inputs'])})"
    assert load(contract).events[name].topic == keccak(text=signature)


def test_a_tranche_touches_both_accounts_and_speaks_the_domains_names() -> None:
    event = load("Liquidator").events["Tranche"]
    values = [OWNER, TAKER, *range(1, 6), -6, 7, -8, 9]
    fact = codec.decode(log_of(DEPLOYMENT.liquidator, event, values), DEPLOYMENT)
    assert fact is not None
    assert fact.touched == (OWNER, TAKER)
    assert fact.args == {
        "account": OWNER,
        "taker": TAKER,
        "fraction_wad": 1,
        "q_wad": 2,
        "kappa_wad": 3,
        "notional_wad": 4,
        "fee_wad": 5,
        "equity_before_wad": -6,
        "requirement_before_wad": 7,
        "equity_after_wad": -8,
        "requirement_after_wad": 9,
    }


def test_every_event_that_names_an_account_is_spoken() -> None:
    for contract, spoken in codec._EVENTS.items():
        for name, event in load(contract).events.items():
            concerns = ACCOUNTS & {parameter[0] for parameter in event.parameters}
            # Neither a cancelled order nor who bears a debt changes what an account's margin rests on.
            unspoken = {"OrderCancelled", "LastSliced", "DebtAbsorbed"}
            assert bool(concerns) <= (name in spoken) or name in unspoken


def test_other_contracts_and_other_events_say_nothing() -> None:
    event = load("Liquidator").events["Expired"]
    assert codec.decode(log_of("0x" + "99" * 20, event, [OWNER]), DEPLOYMENT) is None
    assert codec.decode(log_of(DEPLOYMENT.clearing, event, [OWNER]), DEPLOYMENT) is None
    cancelled = load("Clearing").events["OrderCancelled"]
    assert codec.decode(log_of(DEPLOYMENT.clearing, cancelled, [OWNER, 2]), DEPLOYMENT) is None
    assert codec.decode(Log(DEPLOYMENT.clearing, (), b"", 1, "", "", 0), DEPLOYMENT) is None


def test_a_log_of_ours_that_cannot_be_read_is_a_fault_of_the_chain() -> None:
    whole = log_of(DEPLOYMENT.liquidator, load("Liquidator").events["Cleared"], [OWNER, 5])
    for broken in (
        Log(whole.address, whole.topics, whole.data[:-1], 1, "", "", 0),
        Log(whole.address, whole.topics[:1], whole.data, 1, "", "", 0),
    ):
        with pytest.raises(ChainFault, match="Cleared"):
            codec.decode(broken, DEPLOYMENT)


# --- acts ----------------------------------------------------------------------------------------

NO_REPORTS: tuple[Any, ...] = ((),)
ACTS: list[tuple[HybridAct, str, tuple[Any, ...]]] = [
    (Flag(OWNER, 50 * WAD), "flag", (OWNER, *NO_REPORTS)),
    (Confirm(OWNER), "confirm", (OWNER, *NO_REPORTS)),
    (
        Liquidate(OWNER, TAKER, 3, 1_700_000_036, 4, WAD, 5),
        "liquidate",
        (OWNER, (TAKER, 3, 1_700_000_036, 4, WAD, 5), *NO_REPORTS),
    ),
    (Cure(OWNER), "cure", (OWNER, *NO_REPORTS)),
    (Clear(OWNER), "clear", (OWNER, *NO_REPORTS)),
    (Expire(OWNER), "expire", (OWNER,)),
    (BuyCollateral(OWNER, TAKER, 2, 9 * WAD, 8), "buyCollateral", (OWNER, 2, 9 * WAD, 8)),
    (WriteOff(OWNER), "writeOff", (OWNER,)),
    (Poke(OWNER), "poke", (OWNER,)),
]


@pytest.mark.parametrize(("act", "name", "arguments"), ACTS, ids=[name for _, name, _ in ACTS])
def test_every_act_is_a_call_of_the_liquidator(act: HybridAct, name: str, arguments: tuple[Any, ...]) -> None:
    call = codec.encode(act, DEPLOYMENT)
    function = load("Liquidator").functions[name]
    assert call.to == DEPLOYMENT.liquidator
    assert call.data[:4] == keccak(text=f"{name}({','.join(function.inputs)})")[:4]
    assert decode(function.inputs, call.data[4:]) == arguments


def observation(feed: str = "BTC/USD", price: int = 200 * WAD) -> Observation:
    return Observation(feed, price, 10, 1_700_000_000, 1_700_000_030)


def test_reports_come_along_where_an_act_takes_them() -> None:
    bundle = (Report(observation(), b"\1" * 65, "0x"), Report(observation(price=201 * WAD), b"\2" * 65, "0x"))
    call = codec.encode(Cure(OWNER, (bundle,)), DEPLOYMENT)
    _, reports = decode(load("Liquidator").functions["cure"].inputs, call.data[4:])
    expected = tuple((*report_fields(each.observation), each.signature) for each in bundle)
    assert reports == ((feed_bytes("BTC/USD"), expected),)
    with pytest.raises(ValueError, match="one feed, found"):
        codec.post_call("0x" + "00" * 20, (*bundle, Report(observation("ETH/USD"), b"", "0x")))


def test_an_expired_option_is_settled_by_the_clearing() -> None:
    call = codec.encode(Settle(OWNER, 4), DEPLOYMENT)
    assert call.to == DEPLOYMENT.clearing
    assert call.data[:4] == keccak(text="settle(bytes32,uint16)")[:4]
    assert decode(["bytes32", "uint16"], call.data[4:]) == (OWNER, 4)


# --- reads ---------------------------------------------------------------------------------------


def test_rows_and_flags_are_laid_out_as_the_contracts_lay_them_out() -> None:
    (rows,) = [p for p in artifact("MarginReader")["abi"] if p.get("name") == "rows"]
    assert [(field["name"], field["type"]) for field in rows["outputs"]] == [
        (name, "uint256[]") for name in ("heads", "legs", "amounts", "episodes")
    ]
    (flag_of,) = [p for p in artifact("Liquidator")["abi"] if p.get("name") == "flagOf"]
    (flag,) = flag_of["outputs"]
    assert [field["name"] for field in flag["components"]] == [
        *("flagger", "bond", "flaggedAt", "flaggedBlock", "tauAtFlag", "tau", "lastPoke", "tauAtConfirm"),
        *("confirmedAt", "feeCap", "stepStart", "stepUsed", "trancheNonce", "carryTau", "carriedAt"),
        *("slope", "insolventTau"),
    ]


def test_the_parameters_of_a_slope_are_laid_out_as_the_contract_lays_them_out() -> None:
    (part,) = [p for p in artifact("Slopes")["abi"] if p.get("name") == "slopes"]
    assert [field["name"] for field in part["outputs"][0]["components"]] == [
        *("beta", "betaCure", "betaFlag", "lambda", "qMin", "tSlope", "k0", "k1", "tK", "theta"),
        *("bandBase", "bandRate", "bandMax", "stepCap", "stepWindow", "minSlice", "dust"),
    ]
    assert len(inspect.signature(SlopeParams).parameters) == 17


LISTED = deployment(markets=PERPS | OPTIONS)
GLOBALS = (7, 2, 1_700_000_000, 5 * WAD, 6 * WAD, 1, 4 * WAD, 1_700_006_400, 1)
FEED = (5, 1_700_000_000, 6, 1_699_999_000, True, False, False, WAD // 100, 3600, 12)
PNL = tuple(range(-8 * WAD, 8 * WAD, WAD))


def world_answer(feeds: Sequence[Any] | None = None, options: Sequence[Any] | None = None) -> bytes:
    """Lay a world out: no option has an array or a settlement price, but for what is said."""
    none = ((0, 0, 0, 0, (0,) * 16), 0, 0)
    posted = ((200 * WAD, 9 * WAD, -WAD // 3, 1_699_999_999, PNL), 0, 3 * WAD)
    settled = ((0, 0, 0, 0, (0,) * 16), 211 * WAD, 0)
    rows = feeds if feeds is not None else [(FEED, 8 * WAD, 1_699_999_990, 9 * WAD)] * 3
    marks = options if options is not None else [posted, none, settled]
    return encode(load("MarginReader").functions["world"].outputs, [GLOBALS, rows, marks])


def test_the_world_is_read_as_it_is_on_chain() -> None:
    view = codec.decode_world(world_answer(), LISTED)
    assert list(view) == ["BTC/USD", "ETH/USD", "SYN/USD"]
    assert view["ETH/USD"] == FeedView(
        "ETH/USD", 5, 1_700_000_000, 15, 6, 1_699_999_000, False, WAD // 100, 3600, 12, 600, True
    )
    assert view.buckets["SYN/USD"] == BucketView(8 * WAD, 1_699_999_990, 9 * WAD)
    assert view.arrays == {4: ArrayView(200 * WAD, 9 * WAD, -WAD // 3, 1_699_999_999, PNL)}
    assert view.settlements == {6: 211 * WAD}
    assert view.world == Globals(7, 2, 1_700_000_000, 5 * WAD, 6 * WAD, 4 * WAD)


def test_a_fast_price_that_the_chain_does_not_count_is_not_fresh_at_any_age() -> None:
    down = (*FEED[:4], False, *FEED[5:])
    row = (down, 0, 0, 0)
    view: OracleView = codec.decode_world(world_answer([row] * 3), LISTED)
    assert not view["BTC/USD"].fast_fresh(1_700_000_000)
    assert codec.decode_world(world_answer(), LISTED)["BTC/USD"].fast_fresh(1_700_000_000)


def test_the_world_is_asked_for_every_feed_and_every_option() -> None:
    call = codec.world_call(LISTED.reader, LISTED.rules)
    found = decode(load("MarginReader").functions["world"].inputs, call.data[4:])
    assert found == (tuple(feed_bytes(feed) for feed in PRICES), tuple(OPTIONS))


@pytest.mark.parametrize(
    "data",
    [b"", world_answer([(FEED, 0, 0, 0)] * 2), world_answer(options=[]), world_answer()[:-1]],
    ids=["empty", "a feed short", "no options", "cut"],
)
def test_a_world_of_another_size_is_a_fault_of_the_chain(data: bytes) -> None:
    with pytest.raises(ChainFault, match="expected 3 rows of"):
        codec.decode_world(data, LISTED)


def test_amounts_are_one_word() -> None:
    assert codec.decode_amount((2**200).to_bytes(32, "big")) == 2**200
    with pytest.raises(ChainFault, match="found 0 bytes"):
        codec.decode_amount(b"")
    call = codec.credit_call("0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20)
    assert call.data == keccak(text="credit(address,address)")[:4] + encode(
        ["address", "address"], ["0x" + "22" * 20, "0x" + "33" * 20]
    )


@dataclass
class FakeChain:
    """Answers the reads of a deployment."""

    truth: Deployment

    def answer(self, call: Call) -> bytes:
        world = load("MarginReader").functions["world"]
        if call.data[:4] == world.selector:
            _, options = decode(world.inputs, call.data[4:])
            settled = self.truth.rules.done
            rows = [((0, 0, 0, 0, [0] * 16), settled.get(n, 0), 0 if n in settled else 1) for n in options]
            return encode(world.outputs, [(0,) * 9, [], rows])
        for (contract, address), results in self._results().items():
            for name, value in results.items():
                function = load(contract).functions[name]
                if call.to == address and call.data[:4] == function.selector:
                    arguments = decode(function.inputs, call.data[4:])
                    return encode(function.outputs, [value[arguments[0]] if arguments else value])
        raise AssertionError(call)

    def _results(self) -> dict[tuple[str, str], dict[str, Any]]:
        t = self.truth
        rules = t.rules
        listed = ("vault", "router", "quote", "instruments", "riskArrays", "engine", "backstop", "breaker")
        addresses = (
            t.vault,
            t.router,
            t.quote,
            t.instruments,
            t.risk_arrays,
            t.engine,
            t.backstop,
            t.breaker,
        )
        return {
            ("MarginReader", t.reader): {"clearing": t.clearing, "liquidator": t.liquidator},
            ("Clearing", t.clearing): dict(zip(listed, addresses, strict=True)),
            ("Liquidator", t.liquidator): {"registry": t.slopes},
            ("OracleRouter", t.router): {"fastOracle": t.fast_oracle, "SLOW_ONLY_AFTER": 600},
            ("FastOracle", t.fast_oracle): {"MAX_AGE": 15},
            ("Slopes", t.slopes): {
                "slopeCount": len(rules.slopes),
                "defaultSlope": rules.default_slope,
                "version": 1,
                "slopes": {n: fields_of(slope) for n, slope in enumerate(rules.slopes)},
            },
            ("Instruments", t.instruments): {
                "marketCount": len(rules.markets),
                "collateralCount": len(rules.collaterals),
                "version": t.version - 1,
                "market": {n: market_row(listed) for n, listed in rules.markets.items()},
                "collateralTerms": {n: collateral_row(terms) for n, terms in rules.collaterals.items()},
                "underlying": {
                    feed_bytes(feed): (*map(fields_of, (each.mmr, each.imr, each.short_min)), 9 * WAD)
                    for feed, each in rules.underlyings.items()
                },
            },
        }


def fields_of(record: SlopeParams | Ramp) -> tuple[int, ...]:
    return tuple(getattr(record, name) for name in type(record).__slots__)


def market_row(market: Listed) -> tuple[Any, ...]:
    return (feed_bytes(market.feed), list(Kind).index(market.kind), market.expiry_s, market.strike_wad)


def collateral_row(terms: Collateral) -> tuple[Any, ...]:
    ramps = (fields_of(terms.h_mm), fields_of(terms.h_im))
    return (terms.token, feed_bytes(terms.feed), *ramps, terms.sale_disc_max_wad, WAD)


T = TypeVar("T")


def read_through(reading: Generator[list[Call], list[bytes], T], chain: FakeChain) -> tuple[T, int]:
    """Answer every round; return what was read, and in how many of them."""
    calls, rounds = next(reading), 1
    while True:
        try:
            calls = reading.send([chain.answer(call) for call in calls])
        except StopIteration as done:
            return done.value, rounds
        rounds += 1


EARLY = replace(SLOPE, beta_wad=60 * WAD // 100, beta_flag_wad=8 * WAD // 100)
FULL = replace(LISTED, rules=replace(LISTED.rules, slopes=(SLOPE, EARLY), default_slope=1))


def test_a_deployment_is_found_from_its_reader() -> None:
    found, rounds = read_through(read_deployment(FULL.chain_id, FULL.reader), FakeChain(FULL))
    assert found == FULL
    assert rounds == 7
    assert FULL.rules.feeds == ("BTC/USD", "ETH/USD", "SYN/USD")
    assert FULL.rules.options == (4, 5, 6)


def test_what_is_listed_is_read_anew_in_three_rounds() -> None:
    longer = replace(FULL, version=9)
    found, rounds = read_through(HybridMarket(DEPLOYMENT).refresh(), FakeChain(longer))
    assert found.deployment == longer
    assert rounds == 3


def test_an_option_that_is_settled_and_that_nobody_holds_is_asked_about_no_more() -> None:
    over = replace(FULL, rules=replace(FULL.rules, done={5: 180 * WAD}))
    found, _ = read_through(HybridMarket(DEPLOYMENT).refresh(), FakeChain(over))
    rules = found.deployment.rules
    assert (rules.done, rules.options) == ({5: 180 * WAD}, (4, 6))
    assert rules.markets == FULL.rules.markets
    call = found.prices_call()
    world = load("MarginReader").functions["world"]
    assert decode(world.inputs, call.data[4:])[1] == (4, 6)
    marks = [((0, 0, 0, 0, [0] * 16), settlement, 1) for settlement in (0, 230 * WAD)]
    view = found.decode_prices(world_answer(options=marks))
    assert view.settlements == {5: 180 * WAD, 6: 230 * WAD}
    assert found.instruments(view, 1_700_000_000)[4].settlement_wad == 180 * WAD


def test_an_address_without_code_is_a_fault_and_no_deployment() -> None:
    reading = read_deployment(1, "0x" + "00" * 20)
    with pytest.raises(ChainFault, match="found 0 bytes"):
        reading.send([b"" for _ in next(reading)])


# --- names, errors, signatures -------------------------------------------------------------------


def test_a_feeds_name_is_ascii_padded_to_a_word() -> None:
    assert feed_bytes("BTC/USD") == b"BTC/USD" + bytes(25)
    assert feed_name(b"BTC/USD" + bytes(25)) == "BTC/USD"
    for wrong in ("", "x" * 33):
        with pytest.raises(ValueError, match="1 to 32 characters"):
            feed_bytes(wrong)


@given(feed_id=st.one_of(st.binary(min_size=32, max_size=32), st.text("ABC/", max_size=32).map(str.encode)))
def test_every_feed_id_has_one_name(feed_id: bytes) -> None:
    padded = feed_id.ljust(32, b"\0")
    assert feed_bytes(feed_name(padded)) == padded


REVERTS = [
    (b"", "reverted without a reason"),
    (bytes.fromhex("deadbeef"), "unknown error 0xdeadbeef"),
    (keccak(text="Error(string)")[:4] + encode(["string"], ["no"]), "no"),
    (keccak(text="Panic(uint256)")[:4] + encode(["uint256"], [17]), "Panic(0x11): an arithmetic overflow"),
    (
        keccak(text="NotBreached(int256,uint256)")[:4] + encode(["int256", "uint256"], [-5, 7]),
        "NotBreached(equity=-5, requirement=7)",
    ),
    (
        keccak(text="NoSlowEvidence(bytes32)")[:4] + feed_bytes("BTC/USD"),
        "NoSlowEvidence(feedId=BTC/USD)",
    ),
    (
        keccak(text="WrongState(bytes32,uint8)")[:4] + encode(["bytes32", "uint8"], [OWNER, 2]),
        f"WrongState(acct=0x{OWNER.hex()}, state=confirmed)",
    ),
    (keccak(text="ZeroAmount()")[:4], "ZeroAmount()"),
    (keccak(text="NotBreached(int256,uint256)")[:4] + b"\1", "NotBreached, unreadable: 0x"),
]


@pytest.mark.parametrize(("data", "expected"), REVERTS)
def test_reverts_are_told_by_name(data: bytes, expected: str) -> None:
    assert codec.revert_name(data).startswith(expected)


def test_every_error_of_every_contract_is_known() -> None:
    samples = {**SAMPLES, "uint8": 1, "string": "why"}
    for contract in CONTRACTS:
        for error in load(contract).errors.values():
            values = [samples[kind] for kind in error.types]
            told = codec.revert_name(error.selector + encode(error.types, values))
            assert told.startswith(f"{error.name}(")


KEY = keccak(text="a reporter")
TOKENS = "0x" + "c1" * 20
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1."""


def address_of(key: bytes) -> bytes:
    return keccak(PublicKey.from_valid_secret(key).format(compressed=False)[1:])[12:]


def recovered(digest: bytes, signature: bytes) -> bytes:
    compact = signature[:64] + bytes([signature[64] - 27])
    point = PublicKey.from_signature_and_message(compact, digest, hasher=None)
    return keccak(point.format(compressed=False)[1:])[12:]


def typed(
    name: str, contract: str, struct: str, fields: Mapping[str, str], message: Mapping[str, Any]
) -> bytes:
    """Hash by eth_account's own EIP-712."""
    signable = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                struct: [{"name": field, "type": kind} for field, kind in fields.items()],
            },
            "primaryType": struct,
            "domain": {"name": name, "version": "1", "chainId": 31337, "verifyingContract": contract},
            "message": message,
        }
    )
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def test_a_report_is_signed_as_eip_712_says() -> None:
    seen = observation()
    fields = {"feedId": "bytes32", "price": "uint128", "confBps": "uint64"} | {
        "observedAt": "uint40",
        "validUntil": "uint40",
    }
    values = dict(zip(fields, (feed_bytes(seen.feed), *report_fields(seen)), strict=True))
    where = {"fast_oracle": DEPLOYMENT.fast_oracle}
    digest = report_digest(seen, **where, chain_id=31337)
    assert digest == typed("HybridMargin FastOracle", DEPLOYMENT.fast_oracle, "FastReport", fields, values)
    report = sign_report(KEY, seen, **where, chain_id=31337)
    assert recovered(digest, report.signature) == address_of(KEY)
    assert report.signer == "0x" + address_of(KEY).hex()
    assert report_digest(seen, **where, chain_id=1) != digest


def test_a_report_is_known_by_its_signature_and_an_altered_one_by_nobody() -> None:
    where = {"fast_oracle": DEPLOYMENT.fast_oracle}
    report = sign_report(KEY, observation(), **where, chain_id=31337)
    assert read_report(report.observation, report.signature, **where, chain_id=31337) == report
    for altered in (
        read_report(observation(price=201 * WAD), report.signature, **where, chain_id=31337),
        read_report(report.observation, report.signature, **where, chain_id=1),
        read_report(report.observation, report.signature, fast_oracle=TOKENS, chain_id=31337),
    ):
        assert altered is None or altered.signer != report.signer


@pytest.mark.parametrize("length", [0, 64, 66])
def test_what_is_no_signature_is_signed_by_nobody(length: int) -> None:
    where = {"fast_oracle": DEPLOYMENT.fast_oracle}
    for byte in (0, 1, 27, 255):
        assert read_report(observation(), bytes([byte]) * length, **where, chain_id=31337) is None


def test_a_signature_that_the_contract_calls_malleable_is_none() -> None:
    where = {"fast_oracle": DEPLOYMENT.fast_oracle}
    report = sign_report(KEY, observation(), **where, chain_id=31337)
    s, v = int.from_bytes(report.signature[32:64]), report.signature[64]
    mirrored = report.signature[:32] + (ORDER - s).to_bytes(32) + bytes([27 + 28 - v])
    assert read_report(report.observation, mirrored, **where, chain_id=31337) is None
    assert read_report(report.observation, report.signature[:64] + b"\0", **where, chain_id=31337) is None


def test_an_order_is_signed_as_eip_712_says() -> None:
    order = Order(OWNER, 3, -5 * WAD, 7 * WAD, 2**200, 1_700_000_100)
    names = ("account", "market", "size", "limitPrice", "nonce", "deadline")
    kinds = ("bytes32", "uint16", "int128", "uint128", "uint256", "uint40")
    fields = dict(zip(names, kinds, strict=True))
    message = dict(zip(names, order.fields, strict=True))
    digest = order_digest(order, clearing=DEPLOYMENT.clearing, chain_id=31337)
    assert digest == typed("HybridMargin Clearing", DEPLOYMENT.clearing, "Order", fields, message)
    signature = sign_order(KEY, order, clearing=DEPLOYMENT.clearing, chain_id=31337)
    assert recovered(digest, signature) == address_of(KEY)


@given(key=st.integers(1, 2**250), digest_of=st.binary(max_size=8))
def test_signatures_have_a_low_s(key: int, digest_of: bytes) -> None:
    order = Order(keccak(digest_of), 1, WAD, WAD, 1, 1)
    signature = sign_order(key.to_bytes(32, "big"), order, clearing=DEPLOYMENT.clearing, chain_id=1)
    curve_order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    assert int.from_bytes(signature[32:64], "big") <= curve_order // 2
    assert signature[64] in {27, 28}
    assert len(signature) == 65


def test_a_trade_carries_both_orders_with_their_signatures() -> None:
    a = Order(OWNER, 1, WAD, 2 * WAD, 1, 9)
    b = Order(TAKER, 1, -WAD, 0, 2, 9)
    call = codec.trade_call(DEPLOYMENT.clearing, (a, b"\1" * 65), (b, b"\2" * 65), 2 * WAD)
    found = decode(load("Clearing").functions["trade"].inputs, call.data[4:])
    assert found == (a.fields, b"\1" * 65, b.fields, b"\2" * 65, 2 * WAD, ())
