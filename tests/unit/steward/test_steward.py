"""What the steward posts and settles, by whose keys, and when; and what it never posts, signs or shows."""

import math
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from structlog.testing import capture_logs

from keeper.domain import (
    ArrayView,
    Call,
    FeedView,
    Globals,
    Head,
    Instrument,
    Kind,
    OracleView,
    Quote,
    Reason,
    Refuse,
    Unknown,
)
from keeper.errors import ChainFault, ConfigError
from keeper.ports import BlockUpdate, Reader
from keeper.risk.scenarios import Option, VolShocks, array_of, pack
from keeper.steward.arrays import (
    Expiry,
    FixedVols,
    Listed,
    Params,
    Post,
    Steward,
    due,
    expired,
    live,
    proposed,
    settleable,
)
from keeper.units import BPS, WAD, FeedId, UnixS

KEYS = [bytes([number]) * 32 for number in range(1, 6)]
NOW_S = 1_700_000_000
DAY_S = 86_400
MMR_WAD = 5 * WAD // 100
PARAMS = Params()
PRICES: dict[FeedId, int] = {"BTC/USD": 60_000 * WAD, "ETH/USD": 3_000 * WAD}
SEEN = ArrayView(60_000 * WAD, 4_800 * WAD, WAD // 2, NOW_S, (0,) * 16)
VOLS = FixedVols({"BTC/USD": 0.6, "ETH/USD": 0.8})


def option(feed: FeedId, kind: Kind = Kind.CALL, *, days: float = 30, **rest: object) -> Instrument:
    strike_wad = PRICES[feed]
    expiry_s = NOW_S + int(days * DAY_S)
    made = Instrument(feed, kind=kind, range_wad=MMR_WAD, strike_wad=strike_wad, expiry_s=expiry_s)
    return replace(made, **rest)  # type: ignore[arg-type]


def perp(feed: FeedId) -> Instrument:
    return Instrument(feed, kind=Kind.PERP, range_wad=MMR_WAD)


COLLATERAL = Instrument("BTC/USD", value_wad=WAD // 2)


def view(feed: FeedId, *, fast_at_s: int = NOW_S, slow_at_s: int = NOW_S, apart_bps: int = 0) -> FeedView:
    slow_wad = PRICES[feed]
    fast_wad = slow_wad * (BPS + apart_bps) // BPS
    return FeedView(feed, fast_wad, fast_at_s, 15, slow_wad, slow_at_s, True, WAD // 100, 3600, 12)


@dataclass
class Board:
    """A deployment's options, and every call that was built for it; ``after`` is what it has become since."""

    instruments_now: list[Instrument]
    version: int = 1
    after: "Board | None" = None
    broken: dict[int, UnixS] = field(default_factory=dict)
    """Markets whose arrays the chain refuses from some time on."""
    views: dict[FeedId, FeedView] = field(default_factory=lambda: {feed: view(feed) for feed in PRICES})
    ramp_per_s: int = 0
    posts: list[tuple[Post, tuple[bytes, ...]]] = field(default_factory=list)
    settled: list[tuple[FeedId, UnixS]] = field(default_factory=list)

    def prices_call(self) -> Call:
        return Call("0xreader", b"world")

    def decode_prices(self, answer: bytes) -> OracleView:
        assert answer == b"the world"
        return OracleView(self.views, world=Globals(version=(self.after or self).version))

    def refresh(self) -> Generator[list[Call], list[bytes], "Board"]:
        for round_ in (b"one", b"two"):
            answers = yield [Call("0xlist", round_)]
            assert answers == [b"answer to " + round_]
        return self.after or self

    def broken_bound(self, market: int, array: ArrayView, at_s: UnixS) -> Reason | None:
        assert array.observed_at_s <= at_s
        refused = at_s >= self.broken.get(market, at_s + 1)
        return Reason("array.mark", "9", "1 to 8") if refused else None

    def instruments(self, oracles: OracleView, at_s: UnixS) -> tuple[Instrument, ...]:
        assert oracles.feeds is self.views
        ramped = MMR_WAD + self.ramp_per_s * (at_s - NOW_S)
        return tuple(replace(each, range_wad=ramped) if each.kind else each for each in self.instruments_now)

    def sign_arrays(self, post: Post, key: bytes) -> bytes:
        return key + bytes([len(post.arrays)])

    def post_arrays_call(self, post: Post, signatures: Sequence[bytes]) -> Call:
        self.posts.append((post, tuple(signatures)))
        return Call("0xarrays", b"post")

    def settle_call(self, feed: FeedId, expiry_s: UnixS) -> Call:
        self.settled.append((feed, expiry_s))
        return Call("0xarrays", b"settle")

    def take(self) -> None:
        """Let the chain hold what was posted last."""
        for array in self.posts[-1][0].arrays:
            now = self.instruments_now[array.market - 1]
            self.instruments_now[array.market - 1] = replace(now, array=array.view)


@dataclass
class Node:
    """A reader that answers the calls of a board, and may fail; ``orphans`` are heads that a reorg led to."""

    heads: list[Head] = field(default_factory=list)
    orphans: set[int] = field(default_factory=set)
    fails: int = 0
    fails_to_list: int = 0
    listed_at: list[str] = field(default_factory=list)

    async def call(self, call: Call, at_hash: str) -> bytes:
        assert call == Call("0xreader", b"world")
        assert at_hash.startswith("0xhead")
        if self.fails:
            self.fails -= 1
            raise ChainFault("the node does not answer")
        return b"the world"

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        self.listed_at.append(at_hash)
        if self.fails_to_list:
            self.fails_to_list -= 1
            raise ChainFault("the node does not answer")
        return [b"answer to " + call.data for call in calls]

    async def updates(self) -> AsyncIterator[BlockUpdate]:
        for each in self.heads:
            orphaned = (replace(each, hash="0xgone"),) if each.number in self.orphans else ()
            yield BlockUpdate(each, orphaned, (each,), ())


@dataclass
class Quotes:
    """A feed that answers the same at all times, and remembers when it was asked."""

    quotes: dict[FeedId, Quote | Unknown]
    asked_s: list[int] = field(default_factory=list)

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        self.asked_s.append(now_s)
        return self.quotes


@dataclass
class Sent:
    """A publisher that keeps everything."""

    calls: list[Call] = field(default_factory=list)
    refuses: bytes = b""

    async def post(self, call: Call, head: Head) -> str:
        if call.data == self.refuses:
            raise ChainFault("the node refuses it")
        self.calls.append(call)
        return f"0x{head.number}"


def head(number: int = 100, *, after_s: int = 0) -> Head:
    return Head(number, f"0xhead{number}", "0xparent", NOW_S + after_s, 10**9)


def quotes(*feeds: FeedId, age_s: int = 0, bps: int = 0) -> dict[FeedId, Quote | Unknown]:
    return {feed: Quote(feed, PRICES[feed] * (BPS + bps) // BPS, NOW_S - age_s) for feed in feeds or PRICES}


Make = Callable[..., Steward]


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def make(sent: Sent, node: Node) -> Make:
    def _make(
        board: Board,
        feed: dict[FeedId, Quote | Unknown] | Quotes | None = None,
        *,
        keys: Sequence[bytes] = KEYS,
        quorum: int = 3,
        params: Params = PARAMS,
        vols: FixedVols = VOLS,
    ) -> Steward:
        return Steward(
            reader=cast("Reader", node),
            venue=board,
            feed=feed if isinstance(feed, Quotes) else Quotes(quotes() if feed is None else feed),
            vols=vols,
            publish=sent,
            keys=keys,
            quorum=quorum,
            params=params,
        )

    return _make


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price_wad", "at_s", "expected"),
    [
        (90_000 * WAD, NOW_S, False),
        (90_000 * WAD, NOW_S - 1, False),
        (60_000 * WAD, NOW_S + 119, False),
        (60_000 * WAD, NOW_S + 120, True),
        (60_600 * WAD - 1, NOW_S + 1, False),
        (60_600 * WAD, NOW_S + 1, True),
        (59_400 * WAD, NOW_S + 1, True),
        (59_400 * WAD + 1, NOW_S + 1, False),
    ],
)
def test_an_array_is_due_when_its_price_is_newer_and_has_moved_or_it_is_overdue(
    price_wad: int, at_s: int, expected: bool
) -> None:
    quote = Quote("BTC/USD", price_wad, at_s)
    assert due(SEEN, quote, Params(deviation_bps=100, heartbeat_s=120)) is expected


def test_an_option_that_was_never_valued_is_due() -> None:
    quote = Quote("BTC/USD", 1, NOW_S)
    assert due(None, quote, PARAMS)
    assert due(ArrayView(0, 0, 0, 0, (0,) * 16), quote, PARAMS)


def test_options_are_numbered_by_their_place_among_the_markets() -> None:
    board = Board([perp("BTC/USD"), option("BTC/USD"), option("ETH/USD", Kind.PUT, array=SEEN), COLLATERAL])
    now = board.instruments(board.decode_prices(b"the world"), NOW_S)
    later = [replace(each, range_wad=2 * MMR_WAD) for each in now]
    found = live(now, later, valid_until_s=NOW_S + 60)
    assert [(each.option.market, each.option.kind, each.feed) for each in found] == [
        (2, Kind.CALL, "BTC/USD"),
        (3, Kind.PUT, "ETH/USD"),
    ]
    assert [each.posted for each in found] == [None, SEEN]
    assert found[0].mmrs_wad == (MMR_WAD, 2 * MMR_WAD)


@pytest.mark.parametrize(("after_s", "count"), [(59, 0), (60, 0), (61, 1)])
def test_an_option_that_expires_before_the_signatures_lapse_is_no_longer_live(
    after_s: int, count: int
) -> None:
    now = [option("BTC/USD", expiry_s=NOW_S + after_s)]
    assert len(live(now, now, valid_until_s=NOW_S + 60)) == count


# --- what -----------------------------------------------------------------------------------------


async def test_one_transaction_carries_the_arrays_of_all_options_that_are_due(make: Make, sent: Sent) -> None:
    board = Board([perp("BTC/USD"), option("BTC/USD"), option("BTC/USD", Kind.PUT), option("ETH/USD")])
    post = await make(board, quotes(age_s=5)).on_head(head())
    assert isinstance(post, Post)
    assert sent.calls == [Call("0xarrays", b"post")]
    assert board.posts == [(post, tuple(key + b"\x03" for key in KEYS[:3]))]
    assert [array.market for array in post.arrays] == [2, 3, 4]
    assert post.valid_until_s == NOW_S + 60
    first = Option(2, Kind.CALL, PRICES["BTC/USD"], NOW_S + 30 * DAY_S)
    expected = array_of(first, spot=60_000.0, vol=0.6, mmr=0.05, now_s=NOW_S - 5)
    assert post.arrays[0] == pack(first, expected, mmrs_wad=[MMR_WAD])


async def test_what_is_posted_rests_until_the_price_moves_or_the_heartbeat(make: Make, sent: Sent) -> None:
    board = Board([option("BTC/USD"), option("ETH/USD")])
    assert isinstance(await make(board).on_head(head()), Post)
    board.take()
    later = {feed: Quote(feed, price, NOW_S + 119) for feed, price in PRICES.items()}
    assert await make(board, cast("dict[FeedId, Quote | Unknown]", later)).on_head(head(after_s=119)) is None
    moved = later | {"ETH/USD": Quote("ETH/USD", 3_030 * WAD, NOW_S + 119)}
    post = await make(board, cast("dict[FeedId, Quote | Unknown]", moved)).on_head(head(after_s=119))
    assert isinstance(post, Post)
    assert [array.market for array in post.arrays] == [2]
    assert len(sent.calls) == 2


async def test_prices_are_those_of_the_head_not_of_after_it(make: Make) -> None:
    feed = Quotes({})
    await make(Board([option("BTC/USD")]), feed).on_head(head(after_s=24))
    assert feed.asked_s == [NOW_S + 24]


async def test_a_ramp_is_met_at_both_of_its_ends(make: Make) -> None:
    """Valued at the range of the next block; deep in the money it lies above the payoff at either range."""
    deep = option("BTC/USD", strike_wad=30_000 * WAD, days=1)
    board = Board([deep, option("BTC/USD")], ramp_per_s=WAD // 10**6)
    post = await make(board).on_head(head())
    assert isinstance(post, Post)
    bound, free = post.arrays
    assert bound.mark_e8 + bound.pnl_e8[10] == 30_000 * 10**8 + 60_000 * (5_000_000 + 60 * 100)
    soon_wad, lapsed_wad = (MMR_WAD + seconds * WAD // 10**6 for seconds in (12, 60))
    call = Option(2, Kind.CALL, PRICES["BTC/USD"], NOW_S + 30 * DAY_S)
    expected = array_of(call, spot=60_000.0, vol=0.6, mmr=soon_wad / WAD, now_s=NOW_S)
    assert free == pack(call, expected, mmrs_wad=[soon_wad, lapsed_wad])


async def test_too_many_arrays_wait_their_turn_and_none_waits_for_ever(make: Make) -> None:
    board = Board([option("BTC/USD", days=20 + number) for number in range(5)])
    steward = make(board, params=replace(PARAMS, most_arrays=2))
    seen = []
    for number in range(3):
        post = await steward.on_head(head(number))
        assert isinstance(post, Post)
        board.take()
        seen.append([array.market for array in post.arrays])
    assert seen == [[1, 2], [3, 4], [5]]
    assert await steward.on_head(head(3)) is None


async def test_what_waits_longest_goes_first(make: Make) -> None:
    ages = {1: 150, 2: 400, 3: 100, 4: 300}
    listed = [option("BTC/USD", array=replace(SEEN, observed_at_s=NOW_S - age_s)) for age_s in ages.values()]
    board = Board([*listed, option("BTC/USD")])
    post = await make(board, params=replace(PARAMS, most_arrays=3)).on_head(head())
    assert isinstance(post, Post)
    assert [array.market for array in post.arrays] == [5, 2, 4]


async def test_nothing_due_sends_nothing(make: Make, sent: Sent) -> None:
    assert await make(Board([perp("BTC/USD"), COLLATERAL])).on_head(head()) is None
    assert sent.calls == []


async def test_what_is_not_known_is_said_and_never_posted(make: Make, sent: Sent) -> None:
    board = Board([option("BTC/USD"), option("ETH/USD")])
    known = quotes("ETH/USD") | {"BTC/USD": Unknown("BTC/USD", "the price 'nan' is not a decimal")}
    with capture_logs() as logs:
        post = await make(board, known, vols=FixedVols({"BTC/USD": 0.6})).on_head(head())
    assert post is None
    assert sent.calls == []
    said = [(each["event"], each["why"]) for each in logs]
    assert said == [
        ("feed.unknown", "the price 'nan' is not a decimal"),
        ("array.unknown", "no volatility is set for it"),
    ]


@pytest.mark.parametrize("vol", [math.nan, math.inf, -0.1])
async def test_a_volatility_that_cannot_be_takes_no_other_array_down_with_it(make: Make, vol: float) -> None:
    board = Board([option("BTC/USD"), option("ETH/USD")])
    with capture_logs() as logs:
        post = await make(board, vols=FixedVols({"BTC/USD": vol, "ETH/USD": 0.8})).on_head(head())
    assert isinstance(post, Post)
    assert [array.market for array in post.arrays] == [2]
    assert [(each["event"], each["market"]) for each in logs] == [("array.unknown", 1)]


async def test_a_price_too_old_for_the_next_block_is_left_out_and_said(make: Make) -> None:
    board = Board([option("BTC/USD"), option("ETH/USD")])
    mixed = quotes("BTC/USD", age_s=49) | quotes("ETH/USD", age_s=48)
    with capture_logs() as logs:
        post = await make(board, mixed).on_head(head())
    assert isinstance(post, Post)
    assert [array.market for array in post.arrays] == [2]
    assert [(each["event"], each["age_s"], each["bound_s"]) for each in logs] == [("feed.too_old", 61, 60)]


def test_a_shock_of_volatility_is_the_operators_to_set() -> None:
    listed = Listed(Option(1, Kind.CALL, 60_000 * WAD, NOW_S + DAY_S), "BTC/USD", None, (MMR_WAD, MMR_WAD))
    quote = Quote("BTC/USD", 60_000 * WAD, NOW_S)
    calm = proposed(listed, quote, 0.6, VolShocks(up=0.0, down=0.0))
    wild = proposed(listed, quote, 0.6, VolShocks(power=0.30))
    assert not isinstance(calm, Unknown)
    assert not isinstance(wild, Unknown)
    assert calm.pnl_e8[:2] == (0, 0)
    assert wild.pnl_e8[0] > 0 > wild.pnl_e8[1]


async def test_an_array_that_the_chain_would_refuse_is_left_out_and_said(make: Make) -> None:
    board = Board([option("BTC/USD"), option("BTC/USD"), option("ETH/USD")])
    board.broken = {1: NOW_S + 12, 2: NOW_S + 60, 3: NOW_S + 61}
    with capture_logs() as logs:
        post = await make(board).on_head(head())
    assert isinstance(post, Post)
    assert [array.market for array in post.arrays] == [3]
    assert [(each["event"], each["market"], each["why"]) for each in logs] == [
        ("array.unknown", market, "array.mark: 9, bound 1 to 8") for market in (1, 2)
    ]


# --- what is listed -------------------------------------------------------------------------------


async def test_an_option_listed_meanwhile_is_posted_at_the_same_head(make: Make, node: Node) -> None:
    board = Board([option("BTC/USD")])
    steward = make(board)
    await steward.on_head(head())
    assert node.listed_at == []
    board.after = Board([*board.instruments_now, option("ETH/USD")], version=2, views=board.views)
    post = await steward.on_head(head(101))
    assert isinstance(post, Post)
    assert [array.market for array in post.arrays] == [1, 2]
    assert board.after.posts[0][0] == post
    assert node.listed_at == ["0xhead101"] * 2


async def test_a_listing_that_cannot_be_read_is_read_at_the_next_head(make: Make, node: Node) -> None:
    board = Board([], after=Board([option("BTC/USD")], version=2))
    steward, node.fails_to_list = make(board), 1
    with pytest.raises(ChainFault, match="does not answer"):
        await steward.on_head(head())
    assert isinstance(await steward.on_head(head(101)), Post)


async def test_a_listing_of_another_version_than_the_prices_is_a_fault_of_the_chain(make: Make) -> None:
    newer = Board([option("BTC/USD")], version=2, after=Board([], version=3))
    with pytest.raises(ChainFault, match="block 100 has version 2, its prices have 3"):
        await make(Board([], after=newer)).on_head(head())


async def test_after_a_reorg_the_listing_is_read_anew_whatever_its_version(make: Make, node: Node) -> None:
    board = Board([option("BTC/USD")])
    board.after = Board([option("ETH/USD", days=20)])
    node.heads, node.orphans, node.fails_to_list = [head(100), head(101), head(102)], {100}, 1
    await make(board).run()
    assert node.listed_at == ["0xhead100", "0xhead101", "0xhead101"]
    assert [array.market for array in board.after.posts[0][0].arrays] == [1]
    assert board.posts == []


# --- settlement -----------------------------------------------------------------------------------


def test_all_options_of_an_expiry_settle_together_the_oldest_first() -> None:
    over = [
        option("ETH/USD", days=-1),
        option("BTC/USD", days=0),
        option("BTC/USD", Kind.PUT, days=0),
        option("BTC/USD", days=-2, settlement_wad=WAD),
        option("BTC/USD", days=1),
        perp("BTC/USD"),
        COLLATERAL,
    ]
    assert expired(over, NOW_S) == (Expiry("ETH/USD", NOW_S - DAY_S), Expiry("BTC/USD", NOW_S))
    assert expired(over, NOW_S - 1) == (Expiry("ETH/USD", NOW_S - DAY_S),)


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (view("BTC/USD"), None),
        (view("BTC/USD", apart_bps=100), None),
        (view("BTC/USD", apart_bps=101), "settle.prices_apart"),
        (view("BTC/USD", apart_bps=-101), "settle.prices_apart"),
        (view("BTC/USD", slow_at_s=NOW_S - 1), "settle.price_before_expiry"),
        (view("BTC/USD", fast_at_s=NOW_S - 1), "settle.price_before_expiry"),
        (view("BTC/USD", fast_at_s=NOW_S - 4), "settle.fast_stale"),
        (replace(view("BTC/USD"), slow_ok=False), "settle.slow_stale"),
        (replace(view("BTC/USD"), slow_wad=0), "settle.slow_stale"),
    ],
)
def test_an_expiry_settles_by_two_fresh_prices_of_after_it_that_agree(
    found: FeedView, rule: str | None
) -> None:
    answer = settleable(Expiry("BTC/USD", NOW_S), found, NOW_S + 12)
    assert (answer.reason.rule if isinstance(answer, Refuse) else None) == rule


async def test_an_expiry_that_has_passed_is_settled(make: Make, sent: Sent) -> None:
    board = Board([option("BTC/USD", days=0), option("BTC/USD", Kind.PUT, days=0)])
    assert await make(board).on_head(head()) == Expiry("BTC/USD", NOW_S)
    assert board.settled == [("BTC/USD", NOW_S)]
    assert sent.calls == [Call("0xarrays", b"settle")]


async def test_an_expiry_whose_prices_are_not_there_waits_and_holds_no_other_up(make: Make) -> None:
    board = Board([option("BTC/USD", days=-1), option("ETH/USD", days=0)])
    board.views["BTC/USD"] = view("BTC/USD", slow_at_s=NOW_S - 2 * DAY_S)
    with capture_logs() as logs:
        assert await make(board).on_head(head()) == Expiry("ETH/USD", NOW_S)
    assert [each["why"] for each in logs] == [
        f"settle.price_before_expiry: {NOW_S - 2 * DAY_S}, bound {NOW_S - DAY_S}"
    ]


async def test_one_settlement_a_minute_goes_before_the_arrays(make: Make) -> None:
    """The wallet has one transaction a head, and in a market that moves arrays are due at each."""
    board = Board([option("BTC/USD", days=-1), option("ETH/USD", days=0), option("ETH/USD")])
    steward = make(board)
    done = []
    for number in range(11):
        now_s = NOW_S + 12 * number
        board.views = {feed: view(feed, fast_at_s=now_s, slow_at_s=now_s) for feed in PRICES}
        done.append(type(await steward.on_head(head(number, after_s=12 * number))).__name__)
        assert len(board.posts) + len(board.settled) == number + 1
        steward._feed = Quotes({"ETH/USD": Quote("ETH/USD", PRICES["ETH/USD"], now_s + 12)})
    assert done == (["Expiry"] + ["Post"] * 4) * 2 + ["Expiry"]
    # None of them succeeds, and none holds the other up.
    assert [feed for feed, _ in board.settled] == ["BTC/USD", "ETH/USD", "BTC/USD"]


async def test_settlements_that_succeed_leave_the_heads_between_them_to_the_arrays(make: Make) -> None:
    over = [option("BTC/USD", days=-days) for days in (3, 2, 1)]
    board = Board([*over, option("ETH/USD")])
    steward = make(board)
    done = []
    for number in range(6):
        now_s = NOW_S + 12 * number
        board.views = {feed: view(feed, fast_at_s=now_s, slow_at_s=now_s) for feed in PRICES}
        sent_now = await steward.on_head(head(number, after_s=12 * number))
        done.append(type(sent_now).__name__)
        for place, each in enumerate(board.instruments_now):
            if isinstance(sent_now, Expiry) and each.expiry_s == sent_now.expiry_s:
                board.instruments_now[place] = replace(each, settlement_wad=WAD)
        steward._feed = Quotes({"ETH/USD": Quote("ETH/USD", PRICES["ETH/USD"], now_s + 12)})
    assert done == ["Expiry"] + ["Post"] * 4 + ["Expiry"]


async def test_a_settlement_that_the_node_refuses_holds_no_arrays_up(make: Make, sent: Sent) -> None:
    board = Board([option("BTC/USD", days=0), option("ETH/USD")])
    steward, sent.refuses = make(board), b"settle"
    with pytest.raises(ChainFault, match="refuses"):
        await steward.on_head(head())
    assert isinstance(await steward.on_head(head(101)), Post)


async def test_a_settlement_that_fails_is_tried_again_after_a_while(make: Make) -> None:
    board = Board([option("BTC/USD", days=0)])
    steward = make(board)
    tried = []
    for number in range(7):
        now_s = NOW_S + 12 * number
        board.views["BTC/USD"] = view("BTC/USD", fast_at_s=now_s, slow_at_s=now_s)
        if await steward.on_head(head(number, after_s=12 * number)):
            tried.append(number)
    assert tried == [0, 5]


# --- by whom --------------------------------------------------------------------------------------


async def test_a_quorum_of_different_keys_signs_and_all_take_their_turn(make: Make) -> None:
    board = Board([option("BTC/USD")])
    steward, seen = make(board), []
    for number in range(5):
        await steward.on_head(head(number))
        signers = [signature[:32] for signature in board.posts[-1][1]]
        assert len(set(signers)) == 3
        seen += signers
    assert sorted(seen) == sorted(KEYS * 3)


@pytest.mark.parametrize(
    ("keys", "found"), [(KEYS[:2], 2), ([], 0), ([KEYS[0]] * 3, 1), ([*KEYS[:2], KEYS[0]], 2)]
)
def test_too_few_different_keys_are_a_configuration_error(make: Make, keys: list[bytes], found: int) -> None:
    with pytest.raises(ConfigError, match=f"^{found} different signer keys given, .* needs 3$"):
        make(Board([]), keys=keys)


def test_no_key_is_ever_shown(make: Make) -> None:
    assert repr(make(Board([]))) == str(make(Board([]))) == "Steward(5 keys)"
    with pytest.raises(ConfigError) as caught:
        make(Board([]), keys=KEYS[:2])
    for key in KEYS:
        assert key.hex() not in str(caught.value)
        assert repr(key) not in str(caught.value)


# --- again and again ------------------------------------------------------------------------------


async def test_the_loop_outlives_a_node_that_fails(make: Make, node: Node, sent: Sent) -> None:
    node.heads, node.fails = [head(100), head(101), head(102)], 1
    board = Board([option("BTC/USD")])
    with capture_logs() as logs:
        await make(board).run()
    assert [(each["event"], each["block"]) for each in logs] == [
        ("head.failed", 100),
        ("steward.head_done", 101),
        ("steward.head_done", 102),
    ]
    assert [each.get("posted") for each in logs] == [None, [1], [1]]
    assert len(sent.calls) == 2


async def test_the_log_says_what_was_settled(make: Make, node: Node) -> None:
    node.heads = [head(100), head(101)]
    with capture_logs() as logs:
        await make(Board([option("BTC/USD", days=0)])).run()
    assert [(each.get("settling"), each.get("posted")) for each in logs] == [("BTC/USD", None), (None, [])]
