"""What is posted, by whose keys, and when; and what is never posted or shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from coincurve import PublicKey
from eth_abi.abi import decode
from eth_account import Account
from structlog.testing import capture_logs

from keeper.domain import Call, FeedView, Head, Quote, Unknown
from keeper.errors import ChainFault, ConfigError
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.params import feed_name
from keeper.protocols.hybrid.signing import report_digest
from keeper.reporter import Observation, Params, Reporter, due
from keeper.units import WAD, FeedId
from tests.unit.pipeline.desk import MARKET, Chain
from tests.unit.protocols.hybrid.books import PRICES, feed_view

KEYS = [bytes([number]) * 32 for number in range(1, 6)]
ADDRESSES = [Account.from_key(key).address.lower() for key in KEYS]
SEEN_S = 1_000
VIEW = replace(feed_view("BTC/USD", 200 * WAD), fast_observed_at_s=SEEN_S)


@dataclass
class Post:
    """A postman who keeps everything, and may be out."""

    calls: list[Call] = field(default_factory=list)
    fails: bool = False

    async def post(self, call: Call, head: Head) -> str:
        if self.fails:
            raise ChainFault(f"no report sent at block {head.number}")
        self.calls.append(call)
        return "0xposted"

    def bundles(self) -> dict[FeedId, list[tuple[Observation, str]]]:
        """Return what the one transaction holds: for each feed its observations and who signed them."""
        (call,) = self.calls
        function = load("FastOracle").functions["postNewer"]
        assert (call.to, call.data[:4]) == (MARKET.deployment.fast_oracle, function.selector)
        (bundles,) = decode(function.inputs, call.data[4:])
        assert len({feed for feed, _ in bundles}) == len(bundles)
        return {feed_name(feed): [_report(feed_name(feed), *row) for row in rows] for feed, rows in bundles}


def _report(feed: FeedId, *row: Any) -> tuple[Observation, str]:
    *values, signature = row
    observation = Observation(feed, *values)
    digest = report_digest(
        observation, fast_oracle=MARKET.deployment.fast_oracle, chain_id=MARKET.deployment.chain_id
    )
    recoverable = signature[:64] + bytes([signature[64] - 27])
    public = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    return observation, Account._keys.PublicKey(public.format(compressed=False)[1:]).to_address()


@dataclass
class Prices:
    """A feed that answers the same at all times, and remembers when it was asked."""

    quotes: dict[FeedId, Quote | Unknown]
    asked_s: list[int] = field(default_factory=list)

    def latest(self, now_s: int) -> dict[FeedId, Quote | Unknown]:
        self.asked_s.append(now_s)
        return self.quotes


@pytest.fixture
def chain() -> Chain:
    """A chain whose fast prices are 12 s old at its newest block."""
    chain = Chain(fast_age_s=12)
    chain.extend()
    return chain


@pytest.fixture
def post() -> Post:
    return Post()


Make = Callable[..., Reporter]


@pytest.fixture
def make(chain: Chain, post: Post) -> Make:
    def _make(
        quotes: dict[FeedId, Quote | Unknown] | Prices,
        *,
        keys: Sequence[bytes] = KEYS,
        quorum: int = 3,
        params: Params | None = None,
    ) -> Reporter:
        return Reporter(
            reader=chain,
            oracle=MARKET,
            feed=quotes if isinstance(quotes, Prices) else Prices(quotes),
            postman=post,
            keys=keys,
            quorum=quorum,
            params=params or Params(),
        )

    return _make


def moved(chain: Chain, *feeds: FeedId, after_s: int = 2) -> dict[FeedId, Quote | Unknown]:
    """Quotes some seconds younger than the newest block, 1% above what the chain has."""
    at_s = chain.tip.timestamp_s + after_s
    return {feed: Quote(feed, PRICES[feed] * 101 // 100, at_s) for feed in feeds}


# --- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price_wad", "at_s", "expected"),
    [
        (400 * WAD, SEEN_S, False),
        (400 * WAD, SEEN_S - 1, False),
        (200 * WAD, SEEN_S + 11, False),
        (200 * WAD, SEEN_S + 12, True),
        (200 * WAD + 2 * WAD // 10 - 1, SEEN_S + 1, False),
        (200 * WAD + 2 * WAD // 10, SEEN_S + 1, True),
        (200 * WAD - 2 * WAD // 10, SEEN_S + 1, True),
    ],
)
def test_a_quote_is_due_when_it_is_newer_and_has_moved_or_is_overdue(
    price_wad: int, at_s: int, expected: bool
) -> None:
    assert due(VIEW, Quote("BTC/USD", price_wad, at_s), Params(deviation_bps=10, heartbeat_s=12)) is expected


def test_a_feed_that_was_never_posted_is_due() -> None:
    never: FeedView = replace(VIEW, fast_wad=0, fast_observed_at_s=0)
    assert due(never, Quote("BTC/USD", 1, SEEN_S), Params())


async def test_the_price_is_observed_late_in_the_slot(make: Make, chain: Chain) -> None:
    prices = Prices({})
    await make(prices, params=Params(lead_s=7)).on_head(chain.tip)
    assert prices.asked_s == [chain.tip.timestamp_s + 7]


# --- what ----------------------------------------------------------------------------------------


async def test_one_transaction_holds_one_bundle_for_each_feed_that_is_due(
    make: Make, chain: Chain, post: Post
) -> None:
    quotes = moved(chain, *PRICES)
    assert await make(quotes).on_head(chain.tip) == list(PRICES)
    bundles = post.bundles()
    assert bundles.keys() == PRICES.keys()
    for feed, reports in bundles.items():
        at_s = chain.tip.timestamp_s + 2
        expected = Observation(feed, PRICES[feed] * 101 // 100, 10, at_s, at_s + 30)
        assert [observation for observation, _ in reports] == [expected] * 3


async def test_what_is_not_due_is_left_out(make: Make, chain: Chain, post: Post) -> None:
    still = {"ETH/USD": Quote("ETH/USD", PRICES["ETH/USD"], chain.tip.timestamp_s - 12)}
    assert await make(moved(chain, "BTC/USD") | still).on_head(chain.tip) == ["BTC/USD"]
    assert post.bundles().keys() == {"BTC/USD"}


async def test_nothing_due_sends_nothing(make: Make, chain: Chain, post: Post) -> None:
    assert await make({}).on_head(chain.tip) == []
    assert post.calls == []


async def test_what_is_not_known_is_said_and_never_posted(make: Make, chain: Chain, post: Post) -> None:
    quotes = moved(chain, "SYN/USD") | {"BTC/USD": Unknown("BTC/USD", "the price 'nan' is not a decimal")}
    with capture_logs() as logs:
        assert await make(quotes).on_head(chain.tip) == ["SYN/USD"]
    assert post.bundles().keys() == {"SYN/USD"}
    said = {each["feed"]: each["why"] for each in logs if each["event"] == "feed.unknown"}
    expected = {"BTC/USD": "the price 'nan' is not a decimal", "ETH/USD": "the feed does not serve it"}
    assert said == expected


async def test_a_quote_too_old_for_the_next_block_is_left_out_and_said(
    make: Make, chain: Chain, post: Post
) -> None:
    now_s = chain.tip.timestamp_s
    quotes: dict[FeedId, Quote | Unknown] = {
        "BTC/USD": Quote("BTC/USD", WAD, now_s - 4),
        "ETH/USD": Quote("ETH/USD", WAD, now_s - 3),
    }
    with capture_logs() as logs:
        assert await make(quotes).on_head(chain.tip) == ["ETH/USD"]
    assert post.bundles().keys() == {"ETH/USD"}
    said = [each for each in logs if each["event"] == "feed.too_old"]
    assert [(each["feed"], each["age_s"], each["bound_s"]) for each in said] == [("BTC/USD", 16, 15)]


# --- by whom -------------------------------------------------------------------------------------


async def test_a_quorum_of_different_keys_signs_and_all_take_their_turn(
    make: Make, chain: Chain, post: Post
) -> None:
    reporter, seen = make(moved(chain, "BTC/USD")), []
    for number in range(5):
        post.calls.clear()
        await reporter.on_head(replace(chain.tip, number=number))
        signers = [signer for _, signer in post.bundles()["BTC/USD"]]
        assert len(set(signers)) == 3
        seen += signers
    assert sorted(seen) == sorted(ADDRESSES * 3)


@pytest.mark.parametrize(
    ("keys", "found"), [(KEYS[:2], 2), ([], 0), ([KEYS[0]] * 3, 1), ([*KEYS[:2], KEYS[0]], 2)]
)
def test_too_few_different_keys_are_a_configuration_error(make: Make, keys: list[bytes], found: int) -> None:
    with pytest.raises(ConfigError, match=f"^{found} different reporter keys given, .* needs 3$"):
        make({}, keys=keys)


async def test_a_key_given_twice_signs_once(make: Make, chain: Chain, post: Post) -> None:
    await make(moved(chain, "BTC/USD"), keys=[KEYS[0], *KEYS[:3]]).on_head(chain.tip)
    assert sorted(signer for _, signer in post.bundles()["BTC/USD"]) == sorted(ADDRESSES[:3])


def test_no_key_is_ever_shown(make: Make) -> None:
    assert repr(make({})) == str(make({})) == "Reporter(5 keys)"
    with pytest.raises(ConfigError) as caught:
        make({}, keys=KEYS[:2])
    for key in KEYS:
        assert key.hex() not in str(caught.value)
        assert repr(key) not in str(caught.value)


# --- again and again -----------------------------------------------------------------------------


async def test_the_loop_outlives_a_node_that_fails(make: Make, chain: Chain, post: Post) -> None:
    chain.fails.append("call_many")
    with capture_logs() as logs:
        await make(moved(chain, "BTC/USD", after_s=26)).run()
    told = [(each["event"], each["block"]) for each in logs if each["event"] != "feed.unknown"]
    first = chain.tip.number - 1
    assert told == [("head.failed", first), ("reporter.head_done", first + 1)]
    assert len(post.calls) == 1


async def test_a_report_that_cannot_be_sent_is_given_up_for_the_next(
    make: Make, chain: Chain, post: Post
) -> None:
    post.fails = True
    with capture_logs() as logs:
        await make(moved(chain, "BTC/USD", after_s=26)).run()
    assert [each["event"] for each in logs if "block" in each] == ["head.failed"] * 2
