"""Between bytes and words: logs into facts, acts into calldata, answers into prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

from eth_abi.abi import encode as encode_arguments

from keeper.abi import Error, Event
from keeper.domain import (
    SCENARIOS,
    ArrayView,
    BucketView,
    Bundle,
    BuyCollateral,
    Call,
    Clear,
    Confirm,
    Cure,
    Expire,
    Fact,
    FeedView,
    Flag,
    Globals,
    HybridAct,
    Liquidate,
    Log,
    OracleView,
    Phase,
    Poke,
    PostingAct,
    Settle,
    WriteOff,
)
from keeper.errors import ChainFault
from keeper.protocols.hybrid.abi import CONTRACTS, artifact, load
from keeper.protocols.hybrid.params import Deployment, Rules, feed_bytes, feed_name
from keeper.protocols.hybrid.signing import Order, report_fields
from keeper.protocols.hybrid.steward import MarginChange
from keeper.units import AccountKey, FeedId, UnixS, Wad

PHASES: Final = tuple(Phase)
WORD: Final = 32
_LiquidatorAct: TypeAlias = PostingAct | Expire | BuyCollateral | WriteOff | Poke
_GLOBALS_WORDS: Final = 9
_FEED_WORDS: Final = 13
"""MarginReader.FeedRow: 10 words of prices and 3 of the bucket."""
_OBSERVED_AT: Final = 3
_OPTION_WORDS: Final = 4 + SCENARIOS + 2
"""MarginReader.OptionRow: the risk array, the settlement price and the open interest."""

# --- logs ----------------------------------------------------------------------------------------

# Our names for the parameters, in the order of the contract's.
_EVENTS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "FastOracle": {"FastPrice": ("feed", "price_wad", "observed_at_s")},
    "Instruments": {
        "UnderlyingListed": ("feed", "mmr_wad", "imr_wad", "short_min_wad", "bucket_cap_wad"),
        "MarketListed": ("market", "feed", "kind", "expiry_s", "strike_wad"),
        "CollateralListed": (
            "collateral",
            "token",
            "feed",
            "h_mm_wad",
            "h_im_wad",
            "sale_disc_max_wad",
            "cap_wad",
        ),
        "RampSet": ("subject", "parameter", "from_wad", "to_wad", "start_s", "end_s"),
    },
    "RiskArrays": {
        "RiskArraySet": ("market", "ref_wad", "mark_wad", "delta_wad", "observed_at_s"),
        "SettlementSet": ("feed", "expiry_s", "price_wad"),
    },
    "Clearing": {
        "Deposited": ("account", "token", "payer", "amount_wad"),
        "Withdrawn": ("account", "token", "amount_wad"),
        "Traded": ("long", "short", "market", "size_wad", "price_wad", "long_nonce", "short_nonce"),
        "OptionSettled": ("account", "market", "size_wad", "value_wad"),
        "InsurancePaid": ("account", "taker", "amount_wad"),
        "BadDebt": ("account", "amount_wad"),
    },
    "Backstop": {
        "BackstopPaid": ("account", "amount_wad"),
        "LossSocialised": ("market", "amount_wad", "index_wad"),
    },
    "Breaker": {"BreakerSet": ("level", "by")},
    "Slopes": {
        "SlopeAdded": ("slope",),
        "SlopeChosen": ("account", "slope"),
    },
    "Liquidator": {
        "Flagged": ("account", "flagger", "equity_wad", "requirement_wad", "bond_wad"),
        "Cleared": ("account", "slash_wad"),
        "Expired": ("account",),
        "SlowPrice": ("feed", "price_wad", "updated_at_s"),
        "Confirmed": ("account", "fast_wad", "slow_wad", "equity_wad", "requirement_wad", "reward_wad"),
        "Poked": ("account", "tau_s"),
        "CollateralSold": ("account", "collateral", "buyer", "amount_wad", "paid_wad"),
        "Tranche": (
            "account",
            "taker",
            "fraction_wad",
            "q_wad",
            "kappa_wad",
            "notional_wad",
            "fee_wad",
            "equity_before_wad",
            "requirement_before_wad",
            "equity_after_wad",
            "requirement_after_wad",
        ),
        "Cured": ("account", "carry_tau_s"),
        "BondSettled": ("account", "flagger", "returned_wad", "slashed_wad"),
        "InsolventSince": ("account", "insolvent_tau_s"),
        "Insolvent": ("account", "bad_debt_wad"),
        "ActFailed": ("index", "error"),
    },
}
_ACCOUNTS: Final = frozenset({"account", "taker", "long", "short"})
_SHARED: Final = "LossSocialised"
"""The event that changes the quote leg of whoever has a position in its market, and names none of them."""


class SignableArray(Protocol):
    """A risk array in the integers that are signed."""

    @property
    def fields(self) -> tuple[Any, ...]:
        """The struct ``RiskArray`` of HybridTypes.sol."""
        ...


class ArrayPost(Protocol):
    """Risk arrays that are signed together; whoever computes them has a class of its own for it."""

    @property
    def arrays(self) -> Sequence[SignableArray]: ...
    @property
    def valid_until_s(self) -> UnixS: ...


_CLOSINGS: Final = frozenset({"Tranche", "CollateralSold"})


@dataclass(frozen=True, slots=True)
class _Shape:
    contract: str
    event: Event
    names: tuple[str, ...]


def decode(log: Log, deployment: Deployment) -> Fact | None:
    """Say what a log means; None for one of another contract, or that the keeper need not hear of.

    Raises ChainFault where a log of ours cannot be read.
    """
    shape = _shapes().get(log.topics[0]) if log.topics else None
    if shape is None or log.address.lower() != _address(deployment, shape.contract):
        return None
    args = dict(zip(shape.names, shape.event.values(log.topics, log.data), strict=True))
    if "feed" in args:
        args["feed"] = feed_name(args["feed"])
    touched = tuple(value for name, value in args.items() if name in _ACCOUNTS)
    return Fact(
        block=log.block_number,
        tx_hash=log.tx_hash,
        log_index=log.index,
        act=shape.event.name,
        touched=touched,
        args=args,
        block_hash=log.block_hash,
        closes=shape.event.name in _CLOSINGS,
        markets=(args["market"],) if shape.event.name == _SHARED else (),
    )


def credit_moved(log: Log, deployment: Deployment) -> tuple[str, str, str, Wad] | None:
    """Return token, giver, taker and WAD of a log that says so of credit in the vault; None for any other."""
    moved = load("Vault").events["CreditMoved"]
    if not log.topics or (log.address.lower(), log.topics[0]) != (deployment.vault, moved.topic):
        return None
    token, giver, taker, wad = moved.values(log.topics, log.data)
    return token.lower(), giver.lower(), taker.lower(), wad


def resigned(log: Log, deployment: Deployment) -> bool:
    """Tell whether a log says that other reporters may sign from now on."""
    changed = load("FastOracle").events["SignersSet"].topic
    return bool(log.topics) and (log.address.lower(), log.topics[0]) == (deployment.fast_oracle, changed)


@cache
def _shapes() -> Mapping[bytes, _Shape]:
    shapes = (
        _Shape(contract, load(contract).events[name], names)
        for contract, events in _EVENTS.items()
        for name, names in events.items()
    )
    return {shape.event.topic: shape for shape in shapes}


def _address(deployment: Deployment, contract: str) -> str:
    return {
        "FastOracle": deployment.fast_oracle,
        "Instruments": deployment.instruments,
        "RiskArrays": deployment.risk_arrays,
        "Clearing": deployment.clearing,
        "Backstop": deployment.backstop,
        "Breaker": deployment.breaker,
        "Slopes": deployment.slopes,
        "Liquidator": deployment.liquidator,
    }[contract]


# --- acts ----------------------------------------------------------------------------------------


def encode(act: HybridAct, deployment: Deployment) -> Call:
    """Build the calldata of an act, with the reports that it is to post first."""
    if isinstance(act, Settle):
        return _call("Clearing", deployment.clearing, "settle", act.account, act.market)
    name, values = _arguments(act)
    reports = ([_bundle(each) for each in act.reports],) if isinstance(act, PostingAct) else ()
    return _call("Liquidator", deployment.liquidator, name, *values, *reports)


def batch_call(calls: Sequence[Call], deployment: Deployment) -> Call | None:
    """Build the call that carries out several of the Liquidator's; None where one is of another contract."""
    if any(each.to != deployment.liquidator for each in calls):
        return None
    return _call("Liquidator", deployment.liquidator, "batch", [each.data for each in calls])


def _arguments(act: _LiquidatorAct) -> tuple[str, tuple[Any, ...]]:
    """Return the function's name, and its arguments before the reports."""
    match act:
        case Flag():
            return "flag", (act.account,)
        case Confirm():
            return "confirm", (act.account,)
        case Liquidate():
            return "liquidate", (act.account, _terms(act))
        case Cure():
            return "cure", (act.account,)
        case Clear():
            return "clear", (act.account,)
        case Expire():
            return "expire", (act.account,)
        case BuyCollateral():
            bounds = (act.max_quote_wad, act.min_amount_wad)
            return "buyCollateral", (act.account, act.collateral, *bounds)
        case WriteOff():
            return "writeOff", (act.account,)
        case Poke():
            return "poke", (act.account,)


def _terms(act: Liquidate) -> tuple[Any, ...]:
    bounds = (act.min_fraction_wad, act.max_fraction_wad, act.min_fee_wad)
    return (act.taker, act.tranche_nonce, act.deadline_s, *bounds)


def post_call(fast_oracle: str, bundle: Bundle) -> Call:
    """Post one bundle of reports; reverts with the reason where it is not accepted."""
    return _call("FastOracle", fast_oracle, "post", _bundle(bundle))


def post_newer_call(fast_oracle: str, bundles: Sequence[Bundle]) -> Call:
    """Post those bundles that are newer than what is stored."""
    return _call("FastOracle", fast_oracle, "postNewer", [_bundle(bundle) for bundle in bundles])


def post_arrays_call(risk_arrays: str, post: ArrayPost, signatures: Sequence[bytes]) -> Call:
    """Post the risk arrays that a quorum signed together."""
    rows = [array.fields for array in post.arrays]
    return _call("RiskArrays", risk_arrays, "post", rows, post.valid_until_s, list(signatures))


def change_margins_call(steward: str, change: MarginChange, signatures: Sequence[bytes]) -> Call:
    """Start the margins on their way that a quorum signed together."""
    return _call("RiskSteward", steward, "change", change.fields, list(signatures))


def settle_expiry_call(risk_arrays: str, feed: FeedId, expiry_s: UnixS) -> Call:
    """Fix the settlement price of all options of one expiry."""
    return _call("RiskArrays", risk_arrays, "settle", feed_bytes(feed), expiry_s)


def trade_call(
    clearing: str,
    a: tuple[Order, bytes],
    b: tuple[Order, bytes],
    price_wad: Wad,
    bundles: Sequence[Bundle] = (),
) -> Call:
    """Match two orders with their signatures at one price."""
    sides = (a[0].fields, a[1], b[0].fields, b[1])
    return _call("Clearing", clearing, "trade", *sides, price_wad, [_bundle(bundle) for bundle in bundles])


def _bundle(bundle: Bundle) -> tuple[bytes, list[tuple[int, int, int, int, bytes]]]:
    feeds = {report.observation.feed for report in bundle}
    if len(feeds) != 1:
        raise ValueError(f"a bundle holds reports on one feed, found {sorted(feeds)}")
    return feed_bytes(feeds.pop()), [
        (*report_fields(report.observation), report.signature) for report in bundle
    ]


# --- reads ---------------------------------------------------------------------------------------


def reader_creation(clearing: str, liquidator: str) -> bytes:
    """Return the creation code of a MarginReader, for where none is deployed."""
    code = bytes.fromhex(artifact("MarginReader")["bytecode"][2:])
    return code + encode_arguments(["address", "address"], [clearing, liquidator])


def rows_call(reader: str, keys: Sequence[AccountKey]) -> Call:
    """Ask for the exact state of many accounts; ``rows`` reads it.

    Put together by hand, for eth_abi takes longer over the keys than the book over the answer.
    """
    array = b"".join((WORD.to_bytes(WORD), len(keys).to_bytes(WORD), *keys))
    return Call(reader, load("MarginReader").functions["rows"].selector + array)


def world_call(reader: str, rules: Rules) -> Call:
    """Ask for both prices of every feed, the options not done with, and what the protocol says of itself."""
    feeds = [feed_bytes(feed) for feed in rules.feeds]
    return _call("MarginReader", reader, "world", feeds, list(rules.options))


def decode_world(data: bytes, deployment: Deployment) -> OracleView:
    """Read the world. The ages of prices and arrays are judged later, at the time of the act.

    Its words are cut out by hand, for eth_abi takes some thirty times as long.
    """
    rules = deployment.rules
    words = [
        int.from_bytes(data[i : i + WORD], "big", signed=True) for i in range(0, len(data) - WORD + 1, WORD)
    ]
    feeds = _table(words, _GLOBALS_WORDS, _FEED_WORDS, len(rules.feeds))
    options = dict(
        zip(rules.options, _table(words, _GLOBALS_WORDS + 1, _OPTION_WORDS, len(rules.options)), strict=True)
    )
    rows = dict(zip(rules.feeds, feeds, strict=True))
    version, level, raised_at, insurance, bad_debt, _gated, drawable, *_ = words[:_GLOBALS_WORDS]
    return OracleView(
        feeds={feed: _feed_view(feed, row, deployment) for feed, row in rows.items()},
        arrays={market: _array_view(row) for market, row in options.items() if row[_OBSERVED_AT]},
        settlements={**rules.done, **{market: row[-2] for market, row in options.items() if row[-2]}},
        buckets={feed: BucketView(*row[-3:]) for feed, row in rows.items()},
        world=Globals(
            version=version,
            breaker_level=level,
            breaker_raised_at_s=raised_at,
            insurance_wad=insurance,
            bad_debt_wad=bad_debt,
            drawable_wad=drawable,
        ),
    )


def _table(words: Sequence[int], at: int, width: int, count: int) -> list[Sequence[int]]:
    """Cut out an array of static structs, whose place the word ``at`` tells."""
    start = words[at] // WORD if at < len(words) else len(words)
    found = words[start] if 0 <= start < len(words) else -1
    if found != count or len(words) < start + 1 + count * width:
        raise ChainFault(f"expected {count} rows of {width} words, found {len(words)} words that say {found}")
    return [words[i : i + width] for i in range(start + 1, start + 1 + count * width, width)]


def _array_view(row: Sequence[int]) -> ArrayView:
    ref, mark, delta, observed_at, *pnl = row[: 4 + SCENARIOS]
    return ArrayView(ref, mark, delta, observed_at, tuple(pnl))


def credit_call(vault: str, token: str, holder: str) -> Call:
    """Ask for a holder's credit; ``decode_amount`` reads it, in WAD whatever the token's decimals."""
    return _call("Vault", vault, "credit", token, holder)


def decode_amount(data: bytes) -> int:
    """Read the answer of a call that gives one number."""
    if len(data) != WORD:
        raise ChainFault(f"expected one word, found {len(data)} bytes")
    return int.from_bytes(data, "big")


def _call(contract: str, to: str, name: str, *values: object) -> Call:
    return load(contract).functions[name].call(to, *values)


def _feed_view(feed: FeedId, row: Sequence[int], deployment: Deployment) -> FeedView:
    fast, fast_at, slow, slow_at, fast_ok, slow_ok, _silent, deviation, heartbeat, min_delay, *_ = row
    return FeedView(
        feed=feed,
        fast_wad=fast,
        fast_observed_at_s=fast_at,
        fast_max_age_s=deployment.fast_max_age_s,
        slow_wad=slow,
        slow_updated_at_s=slow_at,
        slow_ok=bool(slow_ok),
        slow_deviation_wad=deviation,
        slow_heartbeat_s=heartbeat,
        min_delay_s=min_delay,
        fast_silent_after_s=deployment.fast_silent_after_s,
        fast_ok=bool(fast_ok),
    )


# --- reverts -------------------------------------------------------------------------------------

_PANICS: Final[Mapping[int, str]] = {
    0x01: "a failed assertion",
    0x11: "an arithmetic overflow",
    0x12: "a division by zero",
    0x21: "a number out of an enum's range",
    0x22: "broken storage of bytes",
    0x31: "a pop from an empty array",
    0x32: "an index out of bounds",
    0x41: "too much memory",
    0x51: "a call of a zero function",
}
_BUILT_IN: Final = (
    Error("Error", bytes.fromhex("08c379a0"), ("reason",), ("string",)),
    Error("Panic", bytes.fromhex("4e487b71"), ("code",), ("uint256",)),
)


def revert_name(data: bytes) -> str:
    """Say why a call reverted, such as ``NotBreached(equity=-5, requirement=7)``; by a selector, its name."""
    if not data:
        return "reverted without a reason"
    error = _errors().get(data[:4])
    if error is None:
        return f"unknown error 0x{data.hex()}"
    try:
        values = error.decode(data[4:])
    except ChainFault:
        return error.name if len(data) == 4 else f"{error.name}, unreadable: 0x{data.hex()}"
    if error.name == "Error":
        return str(values[0])
    if error.name == "Panic":
        return f"Panic({values[0]:#04x}): {_PANICS.get(values[0], 'of an unknown kind')}"
    return f"{error.name}({', '.join(_told(error, values))})"


def _told(error: Error, values: Sequence[Any]) -> Iterator[str]:
    for name, value in zip(error.names, values, strict=True):
        if name == "feedId":
            yield f"{name}={feed_name(value)}"
        elif name == "state":
            yield f"{name}={PHASES[value]}"
        else:
            yield f"{name}={'0x' + value.hex() if isinstance(value, bytes) else value}"


@cache
def _errors() -> Mapping[bytes, Error]:
    ours = (error for contract in CONTRACTS for error in load(contract).errors.values())
    return {error.selector: error for error in (*_BUILT_IN, *ours)}
