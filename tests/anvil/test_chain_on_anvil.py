"""The reader against a real node: heads, gaps, reorgs, a lost socket, simulations, what verify refuses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import pytest

from keeper.chain.branch import DeepReorg
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.rpc import RpcError, Unreachable
from keeper.domain import Call, ChainTime, Refuse
from keeper.errors import ConfigError
from keeper.lab.anvil import Node, Tx
from keeper.ports import BlockUpdate

pytestmark = pytest.mark.anvil

EMITTER = "0x" + "e1" * 20
EMITS_ITS_FIRST_WORD_AS_A_TOPIC = "0x5f355f5fa100"
CLOCK = "0x" + "c1" * 20
RETURNS_BLOCK_AND_TIME = "0x435f524260205260405ff3"
REVERTER = "0x" + "d1" * 20
REVERTS_WITH_CAFEBABE = "0x63cafebabe5f526004601cfd"
COUNTS_ITS_CALLS = "0x5f54600101805f555f5260205ff3"
TAKER = "0x" + "7a" * 20
SERVES_THE_FIRST_ALONE = "0x5f54600a5760015f55005b63cafebabe5f526004601cfd"
BURNER = "0x" + "b1" * 20
LOOPS_FOR_EVER = "0x5b5f56"
SENDER = "0x" + "5e" * 20


class Follower:
    """Collects updates, and mirrors the chain from nothing but what they say."""

    def __init__(self, reader: ChainReader) -> None:
        self.updates: list[BlockUpdate] = []
        self.chain: list[str] = []
        self._stream = reader.updates()

    async def until(self, block_hash: str) -> BlockUpdate:
        """Follow until this block is the head."""
        async with asyncio.timeout(10):
            while not self.chain or self.chain[-1] != block_hash:
                update = await anext(self._stream)
                for head in update.orphaned:
                    assert self.chain.pop() == head.hash
                self.chain += [head.hash for head in update.adopted]
                assert update.head == update.adopted[-1]
                self.updates.append(update)
        return self.updates[-1]

    def forget(self) -> None:
        self.updates.clear()

    @property
    def orphaned(self) -> list[int]:
        return [head.number for update in self.updates for head in update.orphaned]

    @property
    def adopted(self) -> list[int]:
        return [head.number for update in self.updates for head in update.adopted]

    @property
    def topics(self) -> list[int]:
        return [int.from_bytes(log.topics[0]) for update in self.updates for log in update.logs]


@asynccontextmanager
async def reading(
    node: Node, *, ws_url: str | None = None, params: Params | None = None
) -> AsyncIterator[ChainReader]:
    async with Pool([node.http_url]) as rpc:
        reader = ChainReader(rpc, [ws_url or node.ws_url], [EMITTER], params)
        try:
            yield reader
        finally:
            await reader.close()


def block(node: Node, number: int | str = "latest") -> dict[str, Any]:
    tag = hex(number) if isinstance(number, int) else number
    found: dict[str, Any] = node.rpc("eth_getBlockByNumber", tag, False)
    return found


def tip(node: Node) -> str:
    """Return the hash of the newest block."""
    return str(block(node)["hash"])


def hashes(node: Node, first: int = 0) -> list[str]:
    return [block(node, number)["hash"] for number in range(first, node.block_number() + 1)]


def mine(node: Node, blocks: int = 1) -> str:
    for _ in range(blocks):
        node.mine()
    return tip(node)


def emit(node: Node, *topics: int) -> str:
    """Mine one block for each topic, with one log."""
    node.rpc("anvil_setCode", EMITTER, EMITS_ITS_FIRST_WORD_AS_A_TOPIC)
    node.fund([SENDER])
    for topic in topics:
        node.run([Tx(SENDER, EMITTER, topic.to_bytes(32), gas=100_000)])
    return tip(node)


def reorg(node: Node, depth: int) -> str:
    """Replace the newest blocks with as many empty ones."""
    node.rpc("anvil_reorg", depth, [])
    return tip(node)


async def becomes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.005)


class Cable:
    """A TCP relay to the node that can be cut and mended."""

    def __init__(self, node: Node) -> None:
        self.port = 0
        self._target = int(node.http_url.rsplit(":", 1)[1])
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        self._relays.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.add(asyncio.create_task(self._relay(reader, writer)))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._pump(reader, node_writer), self._pump(node_reader, writer))
        finally:
            for each in (writer, node_writer):
                each.transport.abort()
                with suppress(ConnectionError):
                    await each.wait_closed()

    @staticmethod
    async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()


async def test_the_first_update_adopts_the_head_at_which_the_reader_started(anvil: Node) -> None:
    newest = mine(anvil, 3)
    async with reading(anvil) as reader:
        head = await reader.start()
        update = await Follower(reader).until(newest)
    assert (head.number, head.hash) == (3, newest)
    assert update == BlockUpdate(head, (), (head,), ())


async def test_a_start_from_an_earlier_block_adopts_everything_since(anvil: Node) -> None:
    emit(anvil, 1, 2, 3, 4, 5)
    async with reading(anvil) as reader:
        await reader.start(from_block=3)
        follower = Follower(reader)
        await follower.until(tip(anvil))
    assert follower.adopted == [3, 4, 5]
    assert follower.topics == [3, 4, 5]


async def test_a_start_from_genesis_adopts_the_whole_chain(anvil: Node) -> None:
    newest = mine(anvil, 2)
    async with reading(anvil) as reader:
        await reader.start(from_block=0)
        follower = Follower(reader)
        await follower.until(newest)
    assert follower.adopted == [0, 1, 2]


async def test_every_mined_block_arrives_with_its_own_logs(anvil: Node) -> None:
    async with reading(anvil) as reader:
        await reader.start()
        follower = Follower(reader)
        for topic in (7, 8, 9):
            update = await follower.until(emit(anvil, topic))
            assert [int.from_bytes(log.topics[0]) for log in update.logs] == [topic]
            assert update.logs[0].block_hash == update.head.hash
            assert update.logs[0].address == EMITTER
    assert reader.discrepancies == 0


async def test_heads_that_came_while_the_consumer_was_busy_arrive_as_one_update(anvil: Node) -> None:
    async with reading(anvil) as reader:
        await reader.start()
        follower = Follower(reader)
        await becomes_true(lambda: reader.listening)
        await follower.until(mine(anvil))
        follower.forget()
        newest = emit(anvil, *range(2, 152))
        await becomes_true(lambda: getattr(reader._stream._announced, "hash", "") == newest)
        await follower.until(newest)
    assert len(follower.updates) == 1
    assert follower.adopted == list(range(2, 152))
    assert follower.topics == list(range(2, 152))


async def test_a_reorg_orphans_and_adopts_exactly_the_blocks_that_changed(anvil: Node) -> None:
    async with reading(anvil) as reader:
        await reader.start()
        follower = Follower(reader)
        await follower.until(emit(anvil, 1, 2, 3, 4, 5, 6))
        before = list(follower.chain)
        follower.forget()
        await follower.until(reorg(anvil, 4))
    assert follower.orphaned == [6, 5, 4, 3]
    assert follower.adopted == [3, 4, 5, 6]
    assert follower.topics == []
    assert follower.chain[:3] == before[:3]
    assert follower.chain == hashes(anvil)


async def test_a_silent_rewind_shows_at_the_next_head_of_a_height_already_seen(anvil: Node) -> None:
    async with reading(anvil) as reader:
        await reader.start()
        follower = Follower(reader)
        mine(anvil, 2)
        snapshot = anvil.rpc("evm_snapshot")
        await follower.until(mine(anvil, 3))
        follower.forget()
        anvil.rpc("evm_revert", snapshot)
        anvil.rpc("evm_setNextBlockTimestamp", int(block(anvil)["timestamp"], 16) + 100)
        await follower.until(mine(anvil))
    assert follower.orphaned == [5, 4, 3]
    assert follower.adopted == [3]


async def test_a_reorg_may_reach_below_the_block_at_which_the_reader_started(anvil: Node) -> None:
    mine(anvil, 5)
    async with reading(anvil) as reader:
        await reader.start()
        stream = reader.updates()
        assert (await anext(stream)).head.number == 5
        reorg(anvil, 3)
        updates = [await anext(stream)]
        while updates[-1].head.hash != tip(anvil):
            updates.append(await anext(stream))
    assert [head.number for update in updates for head in update.orphaned][:3] == [5, 4, 3]
    assert [head.number for update in updates for head in update.adopted][-3:] == [3, 4, 5]


async def test_a_reorg_deeper_than_the_bound_stops_loudly(anvil: Node) -> None:
    mine(anvil, 10)
    async with reading(anvil, params=Params(reorg_depth=3)) as reader:
        await reader.start()
        follower = Follower(reader)
        await follower.until(tip(anvil))
        reorg(anvil, 6)
        with pytest.raises(DeepReorg, match="deeper than 3 blocks"):
            await follower.until(tip(anvil))


async def test_a_reorg_as_deep_as_the_bound_is_followed(anvil: Node) -> None:
    mine(anvil, 10)
    async with reading(anvil, params=Params(reorg_depth=3)) as reader:
        await reader.start()
        follower = Follower(reader)
        await follower.until(tip(anvil))
        follower.chain = hashes(anvil)
        await follower.until(reorg(anvil, 3))
    assert follower.orphaned == [10, 9, 8]


async def test_after_a_lost_socket_the_missed_blocks_are_filled_in(anvil: Node) -> None:
    patient = Params(poll_s=60, deaf_poll_s=60)
    async with Cable(anvil) as cable, reading(anvil, ws_url=cable.url, params=patient) as reader:
        await reader.start()
        follower = Follower(reader)
        await becomes_true(lambda: reader.listening)
        await follower.until(emit(anvil, 1))
        await cable.cut()
        await becomes_true(lambda: not reader.listening)
        emit(anvil, 2, 3, 4)
        replaced = reorg(anvil, 1)
        await cable.mend()
        await follower.until(replaced)
        await becomes_true(lambda: reader.listening)
        await follower.until(emit(anvil, 5))
    assert follower.chain == hashes(anvil)
    assert follower.topics == [1, 2, 3, 5]


async def test_without_a_websocket_heads_are_found_by_polling(anvil: Node) -> None:
    async with reading(anvil, ws_url="ws://127.0.0.1:1", params=Params(deaf_poll_s=0.02)) as reader:
        await reader.start()
        follower = Follower(reader)
        await follower.until(mine(anvil))
        await follower.until(mine(anvil, 2))
    assert follower.chain == hashes(anvil, follower.adopted[0])


async def test_a_search_returns_the_logs_of_a_range_in_order(anvil: Node) -> None:
    emit(anvil, *range(1, 8))
    async with reading(anvil) as reader:
        logs = [log for found in [each async for each in reader.search(2, 5)] for log in found.logs]
    assert [(log.block_number, int.from_bytes(log.topics[0])) for log in logs] == [
        (n, n) for n in range(2, 6)
    ]


async def test_calls_are_answered_at_the_block_they_are_pinned_to(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", CLOCK, RETURNS_BLOCK_AND_TIME)
    mine(anvil, 3)
    async with reading(anvil) as reader:
        second = block(anvil, 2)
        answer = await reader.call(Call(CLOCK, b""), second["hash"])
        many = await reader.call_many([Call(CLOCK, b""), Call(SENDER, b"")], block(anvil, 1)["hash"])
    assert (int.from_bytes(answer[:32]), int.from_bytes(answer[32:])) == (2, int(second["timestamp"], 16))
    assert [int.from_bytes(many[0][:32]), many[1]] == [1, b""]


async def test_a_call_pinned_to_an_unknown_block_is_a_fault(anvil: Node) -> None:
    async with reading(anvil) as reader:
        with pytest.raises(RpcError):
            await reader.call(Call(CLOCK, b""), "0x" + "77" * 32)


async def test_a_simulation_runs_in_the_block_and_at_the_time_asked_for(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", CLOCK, RETURNS_BLOCK_AND_TIME)
    at = ChainTime(block=1234, timestamp_s=2_000_000_000)
    async with reading(anvil) as reader:
        answer = await reader.simulate(SENDER, Call(CLOCK, b""), at, 100_000)
    assert isinstance(answer, bytes)
    assert (int.from_bytes(answer[:32]), int.from_bytes(answer[32:])) == (1234, 2_000_000_000)


async def test_a_simulated_revert_is_a_refusal_with_its_selector(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", REVERTER, REVERTS_WITH_CAFEBABE)
    async with reading(anvil) as reader:
        answer = await reader.simulate(SENDER, Call(REVERTER, b""), ChainTime(2, 2_000_000_000), 100_000)
    assert isinstance(answer, Refuse)
    assert answer.reason.rule == "simulation.reverted"
    assert answer.reason.evidence == "0xcafebabe"


async def test_a_simulation_that_runs_out_of_gas_is_a_refusal(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", BURNER, LOOPS_FOR_EVER)
    async with reading(anvil) as reader:
        answer = await reader.simulate(SENDER, Call(BURNER, b""), ChainTime(2, 2_000_000_000), 100_000)
    assert isinstance(answer, Refuse)
    assert "gas" in answer.reason.evidence.lower()


async def test_who_came_second_in_a_block_hears_behind_it_what_it_was_refused_with(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", TAKER, SERVES_THE_FIRST_ALONE)
    first, second = SENDER, "0x" + "5f" * 20
    anvil.fund([first, second])
    before = mine(anvil)
    sent = []
    for sender, tip_wei in ((first, 2 * 10**9), (second, 10**9)):
        anvil.rpc("anvil_impersonateAccount", sender)
        tx = {"from": sender, "to": TAKER, "gas": hex(100_000), "maxPriorityFeePerGas": hex(tip_wei)}
        sent.append(anvil.rpc("eth_sendTransaction", tx | {"maxFeePerGas": hex(10**11)}))
    at_hash = mine(anvil)
    receipts = [anvil.rpc("eth_getTransactionReceipt", tx_hash) for tx_hash in sent]
    assert [(each["status"], each["transactionIndex"]) for each in receipts] == [
        ("0x1", "0x0"),
        ("0x0", "0x1"),
    ]
    mine(anvil, 3)
    async with reading(anvil) as reader:
        result = await reader.rerun(second, Call(TAKER, b""), at_hash, 100_000)
        assert await reader.rerun(second, Call(TAKER, b""), before, 100_000) == b""
    assert isinstance(result, Refuse)
    assert result.reason.evidence == "0xcafebabe"


async def test_alone_and_in_order_a_transaction_ends_the_same(anvil: Node) -> None:
    codes = {CLOCK: RETURNS_BLOCK_AND_TIME, REVERTER: REVERTS_WITH_CAFEBABE, BURNER: LOOPS_FOR_EVER}
    for address, code in codes.items():
        anvil.rpc("anvil_setCode", address, code)
    calls = [(Call(address, b""), 100_000) for address in codes]
    at = ChainTime(block=1234, timestamp_s=2_000_000_000)
    async with reading(anvil) as reader:
        together = await reader.simulate_in_order(SENDER, calls, at)
        alone = [await reader.simulate(SENDER, call, at, gas_limit) for call, gas_limit in calls]
    assert together is not None
    assert together[:2] == alone[:2]
    assert [type(each) for each in together] == [bytes, Refuse, Refuse] == [type(each) for each in alone]


async def test_in_order_each_transaction_sees_what_those_before_it_left(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", CLOCK, COUNTS_ITS_CALLS)
    at = ChainTime(block=2, timestamp_s=2_000_000_000)
    async with reading(anvil) as reader:
        counted = await reader.simulate_in_order(SENDER, [(Call(CLOCK, b""), 100_000)] * 3, at)
        alone = await reader.simulate(SENDER, Call(CLOCK, b""), at, 100_000)
    assert counted == [count.to_bytes(32) for count in (1, 2, 3)]
    assert alone == (1).to_bytes(32), "nothing of it is kept"


async def test_verify_accepts_the_right_chain_with_code_at_every_address(anvil: Node) -> None:
    anvil.rpc("anvil_setCode", CLOCK, RETURNS_BLOCK_AND_TIME)
    async with reading(anvil) as reader:
        await reader.verify(anvil.chain_id, {"Clearing": CLOCK})


async def test_verify_refuses_a_node_of_another_chain(anvil: Node) -> None:
    async with reading(anvil) as reader:
        with pytest.raises(ConfigError, match=f"chain 1 is configured, but .* serves {anvil.chain_id}"):
            await reader.verify(1, {})


@pytest.mark.parametrize(
    ("address", "complaint"),
    [(SENDER, f"Liquidator {SENDER} has no code"), ("0x12", "Liquidator must be an address, found '0x12'")],
)
async def test_verify_refuses_an_address_without_code(anvil: Node, address: str, complaint: str) -> None:
    async with reading(anvil) as reader:
        with pytest.raises(ConfigError, match=complaint):
            await reader.verify(anvil.chain_id, {"Liquidator": address})


async def test_an_unreachable_node_is_named_without_its_secrets() -> None:
    async with Pool(["http://user:word@127.0.0.1:1/v2/SECRET?key=SECRET"]) as rpc:
        reader = ChainReader(rpc, ["ws://127.0.0.1:1/SECRET"], [])
        with pytest.raises(Unreachable, match=r"eth_chainId at http://127\.0\.0\.1:1: no answer") as fault:
            await reader.verify(1, {})
    assert "SECRET" not in str(fault.value)
    assert "word" not in str(fault.value)
