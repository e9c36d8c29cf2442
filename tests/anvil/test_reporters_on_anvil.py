"""Five reporters as processes of their own, on a real chain: who posts, and whom three of five withstand.

One story, told once: of five reporters one is silent and one lies; then a second one lies as well; at last
the two who lie post what they like.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import Observation, Report
from keeper.lab.anvil import Tx
from keeper.lab.anvil import anvil as running_anvil
from keeper.lab.world import Person
from keeper.protocols.hybrid.market import HybridMarket
from keeper.units import WAD, FeedId, UnixS, Wad
from tests.anvil.test_cli_on_anvil import BEFORE, GENESIS_S, REPORTERS, Daemon, Site, running, write
from tests.anvil.twin_world import log_of

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

BLOCK_S = 12
TOKEN = "a-token-for-a-chain-of-its-own"
ORDER = sorted(REPORTERS, key=lambda reporter: reporter.address)
"""In which they have their turns."""
FIRST, SILENT, THIRD, LIAR, SECOND_LIAR = ORDER
WILD, ALONE, TWO = (range(first, first + 5) for first in range(0, 15, 5))
"""The heads of each part: a wild lie, a likely one, and two who lie."""
LIE = 102
"""Percent of the true price: near enough to be taken together with an honest report."""
BTC: FeedId = "BTC/USD"


def true_price(at_s: UnixS) -> Wad:
    """A price that moves by more than the deviation at every block."""
    return BEFORE[BTC] + (at_s // BLOCK_S % 7) * 50 * WAD


def told_by(reporter: Person, head: int, at_s: UnixS) -> Wad:
    """What a reporter observes of BTC: who is honest sees it within a few basis points."""
    price = true_price(at_s) + ORDER.index(reporter) * 4 * WAD
    if reporter is LIAR:
        return price * 3 // 2 if head in WILD else true_price(at_s) * LIE // 100
    return true_price(at_s) * LIE // 100 if reporter is SECOND_LIAR and head >= TWO.start else price


@dataclass
class Post:
    """What one block holds of fast prices."""

    head: int
    """The head after which it was decided, counted from the first one."""
    senders: list[str]
    prices: dict[FeedId, list[Wad]]
    at_s: UnixS
    """When it was observed."""

    @property
    def honest(self) -> tuple[Wad, Wad]:
        """The least and the most that an honest reporter observed then."""
        prices = [told_by(each, self.head, self.at_s) for each in (FIRST, SILENT, THIRD)]
        return min(prices), max(prices)


@dataclass
class Group:
    """The reporters of a chain, each with a folder, a feed and a port of its own."""

    site: Site
    stack: ExitStack
    begin_s: UnixS
    ports: dict[str, int] = field(default_factory=dict)
    daemons: dict[str, Daemon] = field(default_factory=dict)
    posts: list[Post] = field(default_factory=list)

    def start(self, reporter: Person) -> Daemon:
        """Start one reporter's process."""
        folder = self.site.folder / reporter.address
        if not folder.exists():
            self._configure(folder, reporter)
        secrets = {"KEEPER_REPORTER_KEYS": "0x" + reporter.key.hex(), "KEEPER_EXCHANGE_TOKEN": TOKEN}
        daemon = self.stack.enter_context(running(folder, "report-prices", secrets=secrets))
        self.daemons[reporter.address] = daemon
        return daemon

    def _configure(self, folder: Path, reporter: Person) -> None:
        folder.mkdir()
        node = self.site.node
        write(
            folder,
            http=f'"{node.http_url}"', ws=f'"{node.ws_url}"', chain_id=str(node.chain_id),
            reader=f'"{self.site.deployed.protocol.reader}"',
        )  # fmt: skip
        peers = [f"http://127.0.0.1:{port}" for who, port in self.ports.items() if who != reporter.address]
        with (folder / "keeper.toml").open("a") as file:
            listen = f"127.0.0.1:{self.ports[reporter.address]}"
            file.write(f'[reporter]\nlisten = "{listen}"\npeers = {json.dumps(peers)}\n')
        lines = ["timestamp_s,feed,price"]
        for head in range(-10, 25):
            at_s = self.begin_s + head * BLOCK_S + 10
            prices = {BTC: told_by(reporter, head, at_s) / WAD, "ETH/USD": 1500, "SYN/USD": 7}
            lines += [f"{at_s},{feed},{price:.2f}" for feed, price in prices.items()]
        (folder / "prices.csv").write_text("\n".join(lines) + "\n")

    def whose(self, head: int) -> Person:
        return ORDER[(self.begin_s + head * BLOCK_S) // BLOCK_S % 5]

    def settle(self) -> None:
        """Wait until everyone is done with the newest block."""
        block = self.site.node.block_number()
        for daemon in self.daemons.values():
            daemon.until(lambda daemon=daemon: daemon.done_with(block), 60)  # type: ignore[misc]

    def mine(self, head: int) -> None:
        """Mine the block after a head, and note what it holds."""
        node, protocol = self.site.node, self.site.deployed.protocol
        node.mine(self.begin_s + (head + 1) * BLOCK_S)
        number = hex(node.block_number())
        block = node.rpc("eth_getBlockByNumber", number, True)
        senders = [tx["from"] for tx in block["transactions"] if tx["to"] == protocol.fast_oracle]
        logs = node.rpc("eth_getLogs", {"address": protocol.fast_oracle, "fromBlock": number})
        facts = [HybridMarket(protocol).decode(log_of(log)) for log in logs]
        prices: dict[FeedId, list[Wad]] = {}
        for fact in facts:
            assert fact is not None
            prices.setdefault(fact.args["feed"], []).append(fact.args["price_wad"])
        observed = {fact.args["observed_at_s"] for fact in facts if fact is not None}
        self.posts.append(Post(head, senders, prices, min(observed, default=0)))

    def ask(self, reporter: Person) -> Report:
        """Ask a reporter for its report on BTC, as anyone in the group may."""
        connection = HTTPConnection("127.0.0.1", self.ports[reporter.address], timeout=5)
        connection.request("GET", "/v1/reports", headers={"Authorization": f"Bearer {TOKEN}"})
        rows = json.loads(connection.getresponse().read())["reports"]
        connection.close()
        (row,) = (row for row in rows if row["feed"] == BTC)
        seen = Observation(
            BTC, int(row["price"]), row["confidence_bps"], row["observed_at"], row["valid_until"]
        )
        report = HybridMarket(self.site.deployed.protocol).read_report(
            seen, bytes.fromhex(row["signature"][2:])
        )
        assert report is not None
        assert report.signer == reporter.address
        return report


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Tell the whole story."""
    with running_anvil(timestamp_s=GENESIS_S) as node, ExitStack() as stack:
        site = Site(node, tmp_path_factory.mktemp("reporters"))
        node.fund([reporter.address for reporter in REPORTERS])
        site.post(BEFORE)
        # The first turn is the first reporter's.
        begin_s = (node.timestamp_s() // (5 * BLOCK_S) + 2) * 5 * BLOCK_S
        group = Group(site, stack, begin_s)
        group.ports = dict(zip((each.address for each in ORDER), free_ports(5), strict=True))
        for reporter in (FIRST, THIRD, LIAR, SECOND_LIAR):
            group.start(reporter)
        group.settle()
        # Each hears the others from here on: a post may be of any of them.
        node.mine(begin_s - BLOCK_S)
        group.settle()
        node.mine(begin_s)
        for head in range(TWO.stop):
            group.settle()
            if head == ALONE.start:
                restart_in_its_turn(group, head)
            if head == TWO[-1]:
                group.daemons.pop(FIRST.address).end()
            group.mine(head)
        group.settle()
        lie_together(group, TWO.stop)
        for daemon in group.daemons.values():
            daemon.end()
        yield group


def restart_in_its_turn(group: Group, head: int) -> None:
    """Kill the first reporter when it has sent its post, and start it again before that is included."""
    assert group.whose(head) is FIRST
    sent = group.site.node.rpc("txpool_content")["pending"]
    killed = group.daemons.pop(FIRST.address)
    killed.process.kill()
    killed.process.wait(10)
    again = group.start(FIRST)
    again.until(lambda: again.heard("reporter.holds"), 60)
    group.settle()
    assert group.site.node.rpc("txpool_content")["pending"] == sent


def lie_together(group: Group, head: int) -> None:
    """Post a bundle of two lies and one honest report, in a turn in which nobody else posts."""
    assert group.whose(head) is FIRST
    honest = group.ask(THIRD)
    market = HybridMarket(group.site.deployed.protocol)
    seen = honest.observation
    lie = Observation(
        BTC, honest.observation.price_wad * 103 // 100, 10, seen.observed_at_s, seen.valid_until_s
    )
    call = market.post_call([(honest, *(market.sign_report(lie, who.key) for who in (LIAR, SECOND_LIAR)))])
    group.site.node.send([Tx(LIAR.address, call.to, call.data)])
    group.mine(head)


def test_there_is_one_post_a_round_and_none_in_the_turn_of_who_is_silent(story: Group) -> None:
    for post in story.posts[: TWO.stop]:
        whose = story.whose(post.head)
        expected = [] if whose is SILENT else [whose.address]
        assert (post.head, post.senders) == (post.head, expected)
        feeds = dict.fromkeys(BEFORE, 1) if expected else {}
        assert {feed: len(prices) for feed, prices in post.prices.items()} == feeds


def test_with_one_lying_and_one_silent_the_median_is_honest_at_every_post(story: Group) -> None:
    found = [post for post in story.posts if post.head < TWO.start and post.prices]
    assert len(found) == 8
    for post in found:
        low, high = post.honest
        # The second liar is honest yet, and sees the highest price.
        assert low <= post.prices[BTC][0] <= told_by(SECOND_LIAR, post.head, post.at_s)
        assert high < told_by(LIAR, post.head, post.at_s)


def test_with_two_lying_and_one_silent_the_price_is_theirs(story: Group) -> None:
    found = [post for post in story.posts if post.head in TWO and post.prices]
    assert len(found) == 4
    for post in found:
        assert post.prices[BTC] == [true_price(post.at_s) * LIE // 100]


def test_two_who_lie_post_what_they_like_within_the_dispersion_of_an_honest_report(story: Group) -> None:
    last = story.posts[-1]
    assert last.senders == [LIAR.address]
    assert last.prices[BTC] == [told_by(THIRD, last.head, last.at_s) * 103 // 100]


def test_who_is_silent_or_lies_beyond_belief_is_named(story: Group) -> None:
    lines: list[dict[str, Any]] = story.daemons[THIRD.address].lines
    silent = f"http://127.0.0.1:{story.ports[SILENT.address]}"
    assert any(line.get("peer") == silent and line["event"] == "reports.faulty" for line in lines)
    assert not any(TOKEN in json.dumps(daemon.lines) for daemon in story.daemons.values())
