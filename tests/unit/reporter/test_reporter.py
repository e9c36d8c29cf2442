"""What is posted, by whose keys, and when; and what is never posted or shown."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from coincurve import PublicKey
from eth_abi.abi import decode
from eth_account import Account
from structlog.testing import capture_logs

from keeper.domain import Call, ChainTime, FeedView, Head, Observation, Quote, Report, Unknown
from keeper.errors import ChainFault, ConfigError
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.params import feed_name
from keeper.protocols.hybrid.quorum import Quorum
from keeper.protocols.hybrid.signing import report_digest
from keeper.reporter import Params, Reporter, due
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
    pending: bool = False

    async def post(self, call: Call, head: Head) -> str:
        if self.fails:
            raise ChainFault(f"no report sent at block {head.number}")
        self.calls.append(call)
        return "0xposted"

    async def has_pending(self) -> bool:
        return self.pending

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
class Roll:
    """Who may sign, and who will where that changes."""

    quorum: Quorum = field(default_factory=lambda: Quorum(tuple(ADDRESSES), 3))
    next: Quorum | None = None

    async def read(self, at: ChainTime) -> None:
        del at
        assert self.next is not None, "nothing has changed"
        self.quorum = self.next


@dataclass
class Peers:
    """The other reporters: what they say at each time they are asked, the last one for ever."""

    says: list[Sequence[Report]] = field(default_factory=list)
    asked: int = 0

    async def ask(self) -> Sequence[Report]:
        self.asked += 1
        return self.heard()

    def heard(self) -> Sequence[Report]:
        return self.says[min(self.asked, len(self.says)) - 1] if self.says else ()


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
        roll: Roll | None = None,
        params: Params | None = None,
        peers: Peers | None = None,
    ) -> Reporter:
        return Reporter(
            reader=chain,
            oracle=MARKET,
            feed=quotes if isinstance(quotes, Prices) else Prices(quotes),
            postman=post,
            keys=keys,
            roll=roll or Roll(),
            params=params or Params(),
            peers=peers,
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


async def test_a_quorum_of_different_keys_signs(make: Make, chain: Chain, post: Post) -> None:
    await make(moved(chain, "BTC/USD")).on_head(chain.tip)
    signers = [signer for _, signer in post.bundles()["BTC/USD"]]
    assert len(set(signers)) == 3
    assert set(signers) <= set(ADDRESSES)


@pytest.mark.parametrize(
    ("keys", "found"), [(KEYS[:2], 2), ([], 0), ([KEYS[0]] * 3, 1), ([*KEYS[:2], KEYS[0]], 2)]
)
def test_too_few_different_keys_are_a_configuration_error(make: Make, keys: list[bytes], found: int) -> None:
    with pytest.raises(
        ConfigError, match=f"^{found} different reporter keys given and no peers, .* needs 3$"
    ):
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
        await make(moved(chain, "BTC/USD", after_s=24)).run()
    told = [(each["event"], each["block"]) for each in logs if each["event"] != "feed.unknown"]
    first = chain.tip.number - 1
    assert told == [("head.failed", first), ("reporter.head_done", first + 1)]
    assert len(post.calls) == 1


async def test_a_report_that_cannot_be_sent_is_given_up_for_the_next(
    make: Make, chain: Chain, post: Post
) -> None:
    post.fails = True
    with capture_logs() as logs:
        await make(moved(chain, "BTC/USD", after_s=24)).run()
    assert [each["event"] for each in logs if "block" in each] == ["head.failed"] * 2


# --- among others --------------------------------------------------------------------------------

ORDER = sorted(range(5), key=lambda number: ADDRESSES[number])


def whose(chain: Chain, *, turns_later: int = 0) -> int:
    """Return whose turn it is at the newest block, as the number of a key."""
    return ORDER[(chain.tip.timestamp_s // 12 + turns_later) % 5]


def said(chain: Chain, numbers: Sequence[int], price_wad: int, after_s: int = 2) -> list[Report]:
    """What other reporters have signed of BTC some seconds after the newest block."""
    at_s = chain.tip.timestamp_s + after_s
    seen = Observation("BTC/USD", price_wad, 10, at_s, at_s + 30)
    return [MARKET.sign_report(seen, KEYS[number]) for number in numbers]


def quoted(chain: Chain, price_wad: int, after_s: int = 2) -> dict[FeedId, Quote | Unknown]:
    return {"BTC/USD": Quote("BTC/USD", price_wad, chain.tip.timestamp_s + after_s)}


async def test_in_its_turn_a_reporter_posts_what_a_quorum_has_signed(
    make: Make, chain: Chain, post: Post
) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    peers = Peers([said(chain, others[:1], 199 * WAD) + said(chain, others[1:2], 198 * WAD)])
    reporter = make(quoted(chain, 197 * WAD), keys=[KEYS[me]], peers=peers)
    assert await reporter.on_head(chain.tip) == ["BTC/USD"]
    found = {signer: seen.price_wad for seen, signer in post.bundles()["BTC/USD"]}
    assert found == {
        ADDRESSES[me]: 197 * WAD, ADDRESSES[others[0]]: 199 * WAD, ADDRESSES[others[1]]: 198 * WAD
    }  # fmt: skip


async def test_out_of_its_turn_it_signs_and_neither_asks_nor_posts(
    make: Make, chain: Chain, post: Post
) -> None:
    peers = Peers([said(chain, range(5), 190 * WAD)])
    for turns_later in range(1, 5):
        me = whose(chain, turns_later=turns_later)
        reporter = make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=peers)
        assert await reporter.on_head(chain.tip) == []
        assert [(each.signer, each.observation.price_wad) for each in reporter.reports] == [
            (ADDRESSES[me], 190 * WAD)
        ]
    assert (peers.asked, post.calls) == (0, [])


async def test_without_a_price_of_its_own_it_still_posts_what_others_have_signed(
    make: Make, chain: Chain, post: Post
) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    assert await make({}, keys=[KEYS[me]], peers=Peers([said(chain, others, 190 * WAD)])).on_head(chain.tip)
    assert {signer for _, signer in post.bundles()["BTC/USD"]} <= {ADDRESSES[number] for number in others}


async def test_without_a_quorum_nothing_is_posted(make: Make, chain: Chain, post: Post) -> None:
    me = whose(chain)
    other = [number for number in range(5) if number != me][:1]
    peers = Peers([said(chain, other, 190 * WAD)])
    assert await make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=peers).on_head(chain.tip) == []
    assert post.calls == []


async def test_peers_that_are_behind_are_waited_for_a_moment(make: Make, chain: Chain, post: Post) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    late = said(chain, others, 201 * WAD, after_s=-10)
    peers = Peers([late, late, said(chain, others, 190 * WAD)])
    await make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=peers).on_head(chain.tip)
    assert peers.asked == 3
    assert {seen.price_wad for seen, _ in post.bundles()["BTC/USD"]} == {190 * WAD}


async def test_peers_that_stay_behind_hold_nobody_up_for_long(make: Make, chain: Chain, post: Post) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    peers = Peers([said(chain, others[:1], 150 * WAD, after_s=-10) + said(chain, others[1:], 190 * WAD)])
    params = Params(gather_s=0.1)
    await make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=peers, params=params).on_head(chain.tip)
    assert 1 < peers.asked < 10
    assert {seen.price_wad for seen, _ in post.bundles()["BTC/USD"]} == {190 * WAD}


async def test_one_round_is_never_posted_twice_by_one_reporter(make: Make, chain: Chain, post: Post) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    peers = Peers([said(chain, others, 190 * WAD)])
    reporter = make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=peers, params=Params(patience_s=12))
    assert await reporter.on_head(chain.tip) == ["BTC/USD"]
    again = replace(chain.tip, timestamp_s=chain.tip.timestamp_s // 12 * 12 + 11)
    assert await reporter.on_head(again) == []
    assert len(post.calls) == 1


async def test_a_reporter_that_was_restarted_in_its_turn_waits_for_what_is_pending(
    make: Make, chain: Chain, post: Post
) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    peers = Peers([said(chain, others, 190 * WAD)])
    post.pending = True
    reporter = make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=peers)
    with capture_logs() as logs:
        assert await reporter.on_head(chain.tip) == []
    assert "reporter.holds" in [each["event"] for each in logs]
    later = replace(chain.tip, timestamp_s=chain.tip.timestamp_s + 60)
    peers.says = [said(chain, others, 190 * WAD, after_s=60)]
    assert await reporter.on_head(later) == ["BTC/USD"]


async def test_a_price_is_signed_once_a_second_and_never_an_older_one(make: Make, chain: Chain) -> None:
    prices = Prices(quoted(chain, 190 * WAD))
    reporter = make(prices, keys=[KEYS[whose(chain, turns_later=1)]], peers=Peers())
    await reporter.on_head(chain.tip)
    for quotes in (quoted(chain, 191 * WAD), quoted(chain, 192 * WAD, after_s=1)):
        prices.quotes = quotes
        await reporter.on_head(chain.tip)
        assert [each.observation.price_wad for each in reporter.reports] == [190 * WAD]
    prices.quotes = quoted(chain, 193 * WAD, after_s=3)
    await reporter.on_head(chain.tip)
    assert [each.observation.price_wad for each in reporter.reports] == [193 * WAD]


async def test_what_the_oracle_has_no_feed_for_is_not_signed(make: Make, chain: Chain) -> None:
    quotes = quoted(chain, 190 * WAD) | {"USDT/USD": Quote("USDT/USD", WAD, chain.tip.timestamp_s)}
    reporter = make(quotes, keys=KEYS[:1], peers=Peers())
    await reporter.on_head(chain.tip)
    assert [each.observation.feed for each in reporter.reports] == ["BTC/USD"]


async def test_the_feeds_own_confidence_is_signed_where_it_is_wider(make: Make, chain: Chain) -> None:
    at_s = chain.tip.timestamp_s
    quotes: dict[FeedId, Quote | Unknown] = {
        "BTC/USD": Quote("BTC/USD", WAD, at_s, confidence_bps=25),
        "ETH/USD": Quote("ETH/USD", WAD, at_s, confidence_bps=3),
        "SYN/USD": Quote("SYN/USD", WAD, at_s, confidence_bps=101),
    }
    reporter = make(quotes, keys=KEYS[:1], peers=Peers())
    with capture_logs() as logs:
        await reporter.on_head(chain.tip)
    found = {each.observation.feed: each.observation.confidence_bps for each in reporter.reports}
    assert found == {"BTC/USD": 25, "ETH/USD": 10}
    assert [each["bps"] for each in logs if each["event"] == "feed.unconfident"] == [101]


async def test_reports_that_do_not_count_are_named(make: Make, chain: Chain, post: Post) -> None:
    me = whose(chain)
    others = [number for number in range(5) if number != me]
    future = said(chain, others[:1], 190 * WAD, after_s=13)
    stale = said(chain, others[1:2], 190 * WAD, after_s=-4)
    reporter = make(quoted(chain, 190 * WAD), keys=[KEYS[me]], peers=Peers([future + stale]))
    with capture_logs() as logs:
        await reporter.on_head(chain.tip)
    named = {each["signer"]: each["why"] for each in logs if each["event"] == "report.unusable"}
    assert named == {
        ADDRESSES[others[0]]: "report.from_future: observed 1 s after the next block, bound before it",
        ADDRESSES[others[1]]: "report.too_old: 16 s old in the next block, bound <= 15 s",
    }
    assert post.calls == []


@dataclass
class Group:
    """The others of a group of reporters, as each of them sees them."""

    others: list[Reporter] = field(default_factory=list)

    async def ask(self) -> Sequence[Report]:
        return self.heard()

    def heard(self) -> Sequence[Report]:
        return [report for other in self.others for report in other.reports]


async def test_of_five_reporters_one_posts_at_every_head_and_nobody_for_who_is_silent(
    make: Make, chain: Chain, post: Post
) -> None:
    prices, group = Prices({}), Group()
    group.others = [make(prices, keys=[key], peers=group) for key in KEYS]
    silent, posting = group.others[ORDER[2]], []
    for _ in range(10):
        head = chain.extend()
        prices.quotes = moved(chain, "BTC/USD")
        post.calls.clear()
        here = [each for each in group.others if each is not silent]
        # Whoever hears of the head first has to wait for what the others sign.
        posted = await asyncio.gather(*(each.on_head(head) for each in here))
        assert len(post.calls) == sum(bool(feeds) for feeds in posted) <= 1
        assert bool(post.calls) == (head.timestamp_s // 12 % 5 != 2)
        posting += [
            ADDRESSES[group.others.index(each)] for each, feeds in zip(here, posted, strict=True) if feeds
        ]
    assert Counter(posting) == {each: 2 for each in ADDRESSES if each != ADDRESSES[ORDER[2]]}


async def test_who_may_sign_is_read_anew_where_a_block_has_changed_it(
    make: Make, chain: Chain, post: Post
) -> None:
    roll = Roll(next=Quorum((ADDRESSES[0],), 1))
    chain.emit("FastOracle", "SignersSet", [ADDRESSES[0]], 1)
    await make(moved(chain, "BTC/USD", after_s=26), roll=roll).run()
    assert roll.quorum.size == 1
    assert [signer for _, signer in post.bundles()["BTC/USD"]] == ADDRESSES[:1]


# --- between heads -------------------------------------------------------------------------------


@dataclass
class Ticks:
    """A live feed whose prices move when they are told to."""

    quotes: dict[FeedId, Quote | Unknown] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    asked_s: list[int] = field(default_factory=list)

    def latest(self, now_s: int) -> dict[FeedId, Quote | Unknown]:
        self.asked_s.append(now_s)
        return self.quotes

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        yield

    async def tick(self) -> int:
        self.waits.set()
        await self.moved.wait()
        self.moved.clear()
        return 0

    async def heard(self) -> None:
        """Wait until what has moved was dealt with, and the next tick is waited for."""
        self.waits.clear()
        async with asyncio.timeout(1):
            await self.waits.wait()


async def test_a_price_that_moves_between_heads_is_signed_at_once(chain: Chain, post: Post) -> None:
    feed, clock = Ticks(), chain.tip.timestamp_s + 5.7
    reporter = Reporter(
        reader=chain, oracle=MARKET, feed=feed, postman=post, keys=KEYS[:1], roll=Roll(), params=Params(),
        peers=Peers(), clock=lambda: clock,
    )  # fmt: skip
    signing = asyncio.create_task(reporter._sign_for_ever())
    for after_s in (3, 4):
        feed.quotes = quoted(chain, 190 * WAD + after_s, after_s=after_s)
        feed.moved.set()
        await feed.heard()
        assert [each.observation.price_wad for each in reporter.reports] == [190 * WAD + after_s]
    signing.cancel()
    assert set(feed.asked_s) == {int(clock)}


async def test_with_a_live_feed_it_decides_late_in_the_slot(
    chain: Chain, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    async def sleep(for_s: float) -> None:
        waited.append(for_s)

    monkeypatch.setattr("keeper.reporter.asyncio.sleep", sleep)
    now_s = chain.next.timestamp_s + 4
    reporter = Reporter(
        reader=chain, oracle=MARKET, feed=Ticks(), postman=post, keys=KEYS, roll=Roll(), params=Params(),
        clock=lambda: now_s,
    )  # fmt: skip
    await reporter.run()
    assert waited == [6, 10]
