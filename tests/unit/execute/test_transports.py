"""Where transactions go: relays that behave and relays that do not, and the same bytes wherever they go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from keeper.chain.relay import Relay, Updates
from keeper.domain import EventKind, Head, Permit, Refuse
from keeper.errors import ChainFault, ConfigError
from keeper.execute.keys import RELAY_KEY_VARIABLE, load_relay_key
from keeper.execute.relay_auth import relay_headers
from keeper.execute.transports import PENDING_UPDATES, Parcel, Passed, Via, route_of
from keeper.ports import StepState
from tests.stub_relay import Manner, StubRelay, hash_of

RELAY_KEY = bytes.fromhex("7e" * 32)
ORACLE = "0x" + "0a" * 20
UPDATE = "0x" + "fe" * 32
PRIVATE = (Via.BUNDLE, Via.PRIVATE)
AT_ONCE = (Manner.STALLS, Manner.REFUSES, Manner.FAILS, Manner.FORBIDS, Manner.THROTTLES)

Updated = Callable[..., tuple[Head, tuple[Head, ...]]]


class World:
    """A sender between a relay and a mempool; blocks hold what either of them would include."""

    def __init__(self, desk: Any, stub: StubRelay, updates: Updated) -> None:
        self.desk = desk
        self.stub = stub
        self.updates = updates
        self.hints = Updates(stub.url, [ORACLE], fresh_s=60)
        self.relay = Relay(
            stub.url,
            timeout_s=0.6,
            headers=relay_headers(RELAY_KEY),
            local={PENDING_UPDATES: self.hints.pending},
        )
        self.is_mined = True
        """Whether the mempool is."""

    async def begin(self, *vias: Via) -> None:
        self.desk.restart(relay=self.relay, via=vias)
        await self.desk.sender.resume(self.updates(100)[0])

    async def send(self, *permits: Permit) -> list[str]:
        sent = await self.desk.sender.send(permits)
        assert not any(isinstance(each, Refuse) for each in sent), sent
        return list(sent)

    async def mine(self, number: int) -> None:
        """Mine a block, and let the sender see it."""
        node = self.desk.node
        public = node.raws if self.is_mined else []
        for tx_hash in dict.fromkeys(map(hash_of, [*self.stub.block(number), *public])):
            if tx_hash not in node.receipts:
                node.mine(tx_hash, number)
        await self.desk.sender.track(*self.updates(number))

    def events(self, kind: EventKind) -> list[Any]:
        return [event for event in self.desk.journal.history("case") if event.kind is kind]

    @property
    def sent(self) -> dict[str, Any]:
        [event] = self.events(EventKind.SENT)
        return dict(event.data)


@pytest.fixture
async def world(desk: Any, updates: Updated) -> AsyncIterator[World]:
    async with StubRelay() as stub:
        world = World(desk, stub, updates)
        yield world
        await world.relay.close()


@pytest.mark.parametrize("via", PRIVATE)
async def test_what_a_relay_includes_never_reaches_the_mempool(world: World, via: Via) -> None:
    await world.begin(via, Via.PUBLIC)
    permit = world.desk.reserve()
    await world.send(permit)
    await world.mine(101)
    assert world.desk.state(permit) is StepState.INCLUDED
    assert (world.sent["via"], world.sent["answer"]) == (via, "taken")
    assert world.desk.node.raws == []
    tally = world.desk.sender.tallies[via]
    assert (tally.answers["taken"], tally.included, tally.blocks) == (1, 1, 1)
    assert tally.answer_s > 0


@pytest.mark.parametrize("manner", AT_ONCE)
@pytest.mark.parametrize("via", PRIVATE)
async def test_what_a_relay_does_not_take_goes_to_the_mempool_at_once(
    world: World, via: Via, manner: Manner
) -> None:
    world.stub.manner = manner
    await world.begin(via, Via.PUBLIC)
    permit = world.desk.reserve()
    await world.send(permit)
    await world.mine(101)
    assert world.desk.state(permit) is StepState.INCLUDED
    assert (world.sent["via"], world.sent["answer"]) == (Via.PUBLIC, "taken")
    assert list(world.sent["passed"]) == [via]
    assert "SECRET" not in str(world.sent)
    assert len(world.desk.node.raws) == 1
    assert world.desk.sender.tallies["public"].included == 1


@pytest.mark.parametrize("via", PRIVATE)
async def test_what_a_relay_swallows_goes_to_the_mempool_when_its_blocks_are_over(
    world: World, via: Via
) -> None:
    world.stub.manner = Manner.SWALLOWS
    await world.begin(via, Via.PUBLIC)
    permit = world.desk.reserve()
    await world.send(permit)
    for number in (101, 102):
        await world.mine(number)
        assert world.desk.node.raws == []
    await world.mine(103)
    assert len(world.desk.node.raws) == 1
    await world.mine(104)
    assert world.desk.state(permit) is StepState.INCLUDED
    assert (world.sent["via"], len(world.events(EventKind.INCLUDED))) == (via, 1)
    assert world.desk.sender.tallies["public"].included == 1


@pytest.mark.parametrize("via", PRIVATE)
async def test_a_late_inclusion_by_the_relay_is_that_of_the_same_transaction(world: World, via: Via) -> None:
    world.stub.manner = Manner.SWALLOWS
    world.is_mined = False
    await world.begin(via, Via.PUBLIC)
    permit = world.desk.reserve()
    [tx_hash] = await world.send(permit)
    for number in range(101, 106):
        await world.mine(number)
    assert {hash_of(raw) for raw in world.desk.node.raws} == {tx_hash}
    world.desk.node.mine(tx_hash, 106)
    await world.mine(106)
    assert world.desk.state(permit) is StepState.INCLUDED
    assert world.desk.journal.step(permit.step_id).outcome.block == 106
    assert len(world.events(EventKind.INCLUDED)) == 1


@pytest.mark.parametrize(
    ("via", "name", "blocks"),
    [(Via.BUNDLE, "blockNumber", [101, 102, 103]), (Via.PRIVATE, "maxBlockNumber", [103])],
)
async def test_a_bundle_is_offered_anew_for_every_block_and_a_private_transaction_once(
    world: World, via: Via, name: str, blocks: list[int]
) -> None:
    world.stub.manner = Manner.SWALLOWS
    await world.begin(via, Via.PUBLIC)
    await world.send(world.desk.reserve())
    for number in (101, 102, 103):
        await world.mine(number)
    assert [int(told[name], 16) for _, told in world.stub.asked] == blocks


async def test_a_private_transaction_that_nobody_comes_after_has_no_last_block(world: World) -> None:
    await world.begin(Via.PRIVATE)
    await world.send(world.desk.reserve())
    [(_, told)] = world.stub.asked
    assert told.keys() == {"tx"}


async def test_a_bundle_holds_what_must_go_before_it_and_lets_only_that_revert(world: World) -> None:
    await world.begin(Via.BUNDLE, Via.PUBLIC)
    first, second = world.desk.reserve(), world.desk.reserve(account=b"\x02" * 32)
    hashes = await world.send(first, second)
    told = [told for _, told in world.stub.asked]
    assert [[hash_of(raw) for raw in each["txs"]] for each in told] == [[hashes[0]], hashes]
    assert [each["revertingTxHashes"] for each in told] == [[], hashes[:1]]
    await world.mine(101)
    assert {world.desk.state(each) for each in (first, second)} == {StepState.INCLUDED}


async def test_silence_of_a_relay_and_a_refusal_of_the_node_leave_a_step_in_flight(world: World) -> None:
    world.stub.manner = Manner.STALLS
    await world.begin(Via.PRIVATE, Via.PUBLIC)
    world.desk.node.faults = [ChainFault("insufficient funds for gas * price + value")]
    permit = world.desk.reserve()
    await world.send(permit)
    assert world.desk.state(permit) is StepState.SENT
    assert (world.sent["answer"], world.sent["via"]) == ("unknown", Via.PRIVATE)


async def test_a_relay_that_is_silent_is_not_waited_for_twice_at_one_head(world: World) -> None:
    world.stub.manner = Manner.STALLS
    await world.begin(Via.PRIVATE, Via.PUBLIC)
    await world.send(world.desk.reserve(), world.desk.reserve(account=b"\x02" * 32))
    assert world.desk.sender.tallies["private"].answers == {"unknown": 1}
    assert world.desk.sender.tallies["public"].answers == {"taken": 2}


async def test_a_relay_that_asks_for_patience_is_not_asked_until_it_is_over(world: World) -> None:
    world.stub.manner = Manner.THROTTLES
    world.stub.retry_after = "600"
    parcel = Parcel(b"\x01", (), 101, 103)
    [(_, _, private)] = list(route_of((Via.PRIVATE,), world.relay, world.relay, blocks=3).from_(0))
    with pytest.raises(ChainFault, match="429"):
        await private.deliver(parcel)
    world.stub.manner = Manner.INCLUDES
    with pytest.raises(ChainFault, match="told to wait"):
        await private.deliver(parcel)
    assert world.stub.asked == []


async def test_a_restart_goes_by_the_age_of_a_transaction_and_sends_the_same_bytes(world: World) -> None:
    world.stub.manner = Manner.SWALLOWS
    await world.begin(Via.BUNDLE, Via.PUBLIC)
    [tx_hash] = await world.send(world.desk.reserve())
    world.desk.restart(relay=world.relay, via=(Via.BUNDLE, Via.PUBLIC))
    await world.desk.sender.resume(world.updates(102)[0])
    assert world.desk.node.raws == []
    assert [hash_of(told["txs"][0]) for _, told in world.stub.asked] == [tx_hash] * 2
    world.desk.restart(relay=world.relay, via=(Via.BUNDLE, Via.PUBLIC))
    await world.desk.sender.resume(world.updates(103)[0])
    assert [hash_of(raw) for raw in world.desk.node.raws] == [tx_hash]


async def test_what_is_to_be_public_is_shown_to_no_relay(world: World) -> None:
    await world.begin(Via.BUNDLE, Via.PRIVATE, Via.PUBLIC)
    await world.desk.sender.send([world.desk.reserve()], in_public=True)
    world.is_mined = False
    await world.mine(101)
    assert world.stub.asked == []
    assert (world.sent["via"], len(world.desk.node.raws)) == (Via.PUBLIC, 1)


async def test_where_nothing_becomes_public_a_relay_is_asked_all_the_same(world: World) -> None:
    await world.begin(Via.PRIVATE)
    await world.desk.sender.send([world.desk.reserve()], in_public=True)
    assert world.sent["via"] == Via.PRIVATE


async def test_what_has_come_to_the_mempool_does_not_go_back_to_the_relay(world: World) -> None:
    world.stub.manner = Manner.REFUSES
    world.is_mined = False
    await world.begin(Via.BUNDLE, Via.PUBLIC)
    await world.send(world.desk.reserve())
    world.stub.manner = Manner.INCLUDES
    await world.mine(101)
    await world.mine(102)
    assert world.stub.asked == []
    assert len(world.desk.node.raws) == 1


# --- the auction ------------------------------------------------------------------------------------


def hint(address: str, tx_hash: str = UPDATE, *, as_log: bool = False) -> str:
    logs = f'[{{"address":"{address}","topics":[],"data":"0x"}}]' if as_log else "null"
    txs = "null" if as_log else f'[{{"to":"{address}","functionSelector":"0x6fadcf72"}}]'
    return f'data: {{"hash":"{tx_hash}","logs":{logs},"txs":{txs}}}'


@pytest.mark.parametrize("as_log", [False, True])
async def test_a_transaction_follows_a_pending_update_of_an_oracle(world: World, as_log: bool) -> None:
    await world.begin(Via.AUCTION, Via.PUBLIC)
    world.hints.hear(hint(ORACLE.upper().replace("X", "x"), as_log=as_log).encode())
    [tx_hash] = await world.send(world.desk.reserve())
    [(method, told)] = world.stub.asked
    assert method == "mev_sendBundle"
    assert told["inclusion"] == {"block": hex(101), "maxBlock": hex(103)}
    update, ours = told["body"]
    assert (update, hash_of(ours["tx"]), ours["canRevert"]) == ({"hash": UPDATE}, tx_hash, False)
    assert (world.sent["via"], world.desk.node.raws) == (Via.AUCTION, [])
    await world.mine(101)
    assert world.desk.sender.tallies["auction"].included == 1


@pytest.mark.parametrize(
    "line",
    [
        ":ping",
        "",
        hint("0x" + "0b" * 20),
        "data: not json",
        "data: []",
        hint(ORACLE, "0x1234"),
        hint(ORACLE, "not hex"),
    ],
)
async def test_without_a_pending_update_a_transaction_goes_on_at_once(world: World, line: str) -> None:
    await world.begin(Via.AUCTION, Via.PUBLIC)
    world.hints.hear(line.encode())
    await world.send(world.desk.reserve())
    assert world.stub.asked == []
    assert (world.sent["via"], list(world.sent["passed"])) == (Via.PUBLIC, [Via.AUCTION])


async def test_the_auction_takes_nothing_that_others_must_go_before(world: World) -> None:
    [(_, _, auction)] = list(route_of((Via.AUCTION,), world.relay, world.relay, blocks=3).from_(0))
    world.hints.hear(hint(ORACLE).encode())
    with pytest.raises(Passed, match="1 transactions of lower nonces"):
        await auction.deliver(Parcel(b"\x02", ((b"\x01", "0x01"),), 101, 103))


async def test_an_old_hint_is_not_followed(world: World) -> None:
    stale = Updates(world.stub.url, [ORACLE], fresh_s=0.0)
    stale.hear(hint(ORACLE).encode())
    assert stale.pending() == []


async def becomes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.005)


async def test_a_stream_of_hints_that_ends_is_opened_again(world: World) -> None:
    async with world.hints.listening():
        for heard in (1, 2):
            await becomes_true(lambda: len(world.stub.streams) == 1)
            await world.stub.tell(":ping", hint(ORACLE))
            await becomes_true(lambda heard=heard: len(world.hints.pending()) == heard)  # type: ignore[misc]
            await world.stub.hang_up()


# --- who asks ---------------------------------------------------------------------------------------


async def test_every_request_is_signed_by_the_relays_own_key(world: World) -> None:
    await world.begin(Via.PRIVATE, Via.PUBLIC)
    await world.send(world.desk.reserve())
    [signer] = world.stub.signers
    assert signer.lower() not in {world.desk.sender.address, ""}


async def test_a_relay_refuses_what_is_not_signed(world: World) -> None:
    unsigned = Relay(world.stub.url, timeout_s=1)
    with pytest.raises(ChainFault, match="signature check"):
        await unsigned.request("eth_sendPrivateTransaction", [{"tx": "0x00"}])
    await unsigned.close()


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", f"set {RELAY_KEY_VARIABLE}"),
        ("0x1234", "is not a private key of 32 bytes"),
        ("0x" + "4c" * 32, "is the wallet's own key"),
    ],
)
def test_a_relays_key_that_is_none_or_the_wallets_is_refused(
    monkeypatch: pytest.MonkeyPatch, desk: Any, key: str, why: str
) -> None:
    monkeypatch.setenv(RELAY_KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=why) as refused:
        load_relay_key(desk.sender.address)
    assert "4c4c" not in str(refused.value)


def test_a_relays_key_does_not_show_in_what_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RELAY_KEY_VARIABLE, "0x" + RELAY_KEY.hex())
    headers = relay_headers(load_relay_key("0x" + "00" * 20))
    for text in (repr(headers), str(headers(b"{}"))):
        assert RELAY_KEY.hex() not in text
