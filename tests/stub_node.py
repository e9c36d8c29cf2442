"""A strict JSON-RPC node without a chain behind it: HTTP and websocket on a free port, blocks by script.

``Tree`` holds the blocks, of all forks; each ``StubNode`` shows one branch of it, so that two nodes can
disagree about one chain. It refuses whatever is malformed or unknown, as strictly as the specification
allows, and misbehaves only as told: ``fails`` garbles answers, attributes make it lag, forget or go mute.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Self

from aiohttp import WSMsgType, web
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

QUANTITY = re.compile("0x(0|[1-9a-f][0-9a-f]*)")
DATA = re.compile("0x([0-9a-f]{2})*", re.IGNORECASE)
GWEI = 10**9
ZERO = "0x" + "00" * 32


class Fault(StrEnum):
    """What an answer can suffer on its way out."""

    BAD_JSON = "bad json"
    TRUNCATED = "truncated"
    DROPPED = "dropped"
    """The connection is cut in the middle of the body."""
    STALLED = "stalled"
    WRONG_ID = "wrong id"
    TEXT_ID = "text id"
    DUPLICATE_ID = "duplicate id"
    NO_VERSION = "no version"
    LEFT_OUT = "left out"
    """One answer of a batch is missing."""
    BAD_GATEWAY = "bad gateway"
    THROTTLED = "throttled"
    INTERNAL = "internal error"


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        self.error: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data
        super().__init__(message)


@dataclass(frozen=True)
class Event:
    """One log, before it has a place."""

    address: str
    topics: tuple[str, ...] = ()
    data: str = "0x"


@dataclass(frozen=True)
class Tx:
    """A signed transaction, as far as a mempool looks at it."""

    hash: str
    sender: str
    nonce: int
    max_fee_wei: int
    tip_wei: int


@dataclass(frozen=True)
class Block:
    """One block of the tree."""

    number: int
    hash: str
    parent: str
    timestamp_s: int
    events: tuple[Event, ...] = ()
    txs: tuple[Tx, ...] = ()
    base_fee_wei: int = 7

    def header(self) -> dict[str, Any]:
        return {
            "number": hex(self.number),
            "hash": self.hash,
            "parentHash": self.parent,
            "timestamp": hex(self.timestamp_s),
            "baseFeePerGas": hex(self.base_fee_wei),
            "logsBloom": bloom_of(self.events),
        }

    def log(self, index: int, *, removed: bool = False) -> dict[str, Any]:
        event = self.events[index]
        return {
            "address": event.address.lower(),
            "topics": list(event.topics),
            "data": event.data,
            "blockNumber": hex(self.number),
            "blockHash": self.hash,
            "transactionHash": "0x" + sha256(f"{self.hash}{index}".encode()).hexdigest(),
            "transactionIndex": "0x0",
            "logIndex": hex(index),
            "removed": removed,
        }


def bloom_of(events: Iterable[Event]) -> str:
    """Return the bloom filter of a header (yellow paper, section 4.3.1)."""
    bits = 0
    for event in events:
        for each in (event.address, *event.topics):
            digest = keccak(hexstr=each)
            for at in (0, 2, 4):
                bits |= 1 << (int.from_bytes(digest[at : at + 2]) & 2047)
    return f"0x{bits:0512x}"


class Tree:
    """All blocks of one chain, with every fork. Blocks never change; ``tip`` is where mining goes on."""

    def __init__(self, *, genesis_s: int = 1_700_000_000, block_time_s: int = 12) -> None:
        self._block_time_s = block_time_s
        self.tip = Block(0, "0x" + sha256(b"genesis").hexdigest(), ZERO, genesis_s)
        self.blocks = {self.tip.hash: self.tip}

    def mine(self, *events: Event, on: Block | None = None, txs: tuple[Tx, ...] = ()) -> Block:
        """Put a block on the tip, or on another one, which makes a fork; it becomes the tip."""
        parent = on or self.tip
        content = f"{parent.hash}{len(self.blocks)}".encode()
        self.tip = Block(
            number=parent.number + 1,
            hash="0x" + sha256(content).hexdigest(),
            parent=parent.hash,
            timestamp_s=parent.timestamp_s + self._block_time_s,
            events=events,
            txs=txs,
        )
        self.blocks[self.tip.hash] = self.tip
        return self.tip

    def below(self, block: Block, depth: int) -> Block:
        """Return the ancestor so many blocks below."""
        for _ in range(min(depth, block.number)):
            block = self.blocks[block.parent]
        return block

    def line(self, tip: Block) -> list[Block]:
        """Return the blocks from the first to ``tip``."""
        line = [tip]
        while line[-1].parent in self.blocks:
            line.append(self.blocks[line[-1].parent])
        return line[::-1]


@dataclass(eq=False)
class StubNode:
    """One node; ``async with`` serves it. It shows the tree's tip only when told to: ``follow``."""

    tree: Tree
    chain_id: int = 31337
    lag: int = 0
    """It is so many blocks behind what it follows."""
    mute: bool = False
    """Its websockets stay open and answer pings, and tell nothing: half open."""
    tight_lipped: bool = False
    """What is asked on its websockets it does, and does not answer."""
    most_results: int | None = None
    """More logs than this are refused."""
    most_blocks: int | None = None
    """So is a longer range."""
    retry_after: str | None = None
    answers_all: tuple[int, Any] | None = None
    """A status, and text or JSON: what a proxy in front of it says to every request."""
    delay_s: float = 0.0
    leaves_out: Callable[[Block, int], bool] = lambda *_: False
    """Tells which logs ``eth_getLogs`` forgets."""
    eth_call: Callable[[Block, dict[str, Any]], str] = lambda *_: "0x"
    """Is given the transaction, with the ``code`` that it overrides where it goes to; may raise Refused."""
    takes_overrides: bool = True
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)
    posts: int = 0
    connects: int = 0
    """Websockets opened so far."""
    bundles: list[dict[str, Any]] = field(default_factory=list)
    pool: dict[str, Tx] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.head = self.tree.tip
        self.port = 0
        self._faults: deque[tuple[Fault, str | None]] = deque()
        self._always: tuple[Fault, str | None] | None = None
        self._runner: web.AppRunner | None = None
        self._sockets: dict[web.WebSocketResponse, dict[str, tuple[str, dict[str, Any]]]] = {}

    # --- serving ---

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, again on the same port after a stop."""
        app = web.Application()
        app.router.add_post("/{rest:.*}", self._post)
        app.router.add_get("/{rest:.*}", self._socket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Go down."""
        await self.drop_sockets()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/SECRET-SECRET"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v2/SECRET-SECRET"

    @property
    def sockets_open(self) -> int:
        """How many websockets are open."""
        return len(self._sockets)

    @property
    def sockets(self) -> int:
        """How many websockets have a subscription."""
        return sum(bool(subscriptions) for subscriptions in self._sockets.values())

    def fails(self, *faults: Fault, method: str | None = None, always: bool = False) -> None:
        """Spoil the next answers, one each, or every answer; to one method, if it is named."""
        if always:
            self._always = (faults[0], method)
        else:
            self._faults.extend((fault, method) for fault in faults)

    def recovers(self) -> None:
        self._faults.clear()
        self._always = None

    async def drop_sockets(self) -> None:
        for socket in list(self._sockets):
            await socket.close()

    # --- the chain as this node shows it ---

    async def follow(self, tip: Block | None = None) -> Block:
        """Move to a tip, the tree's own by default, less the lag; announce what that orphans and adopts."""
        old, new = self.tree.line(self.head), self.tree.line(self.tree.below(tip or self.tree.tip, self.lag))
        self.head = new[-1]
        known = {block.hash for block in new}
        orphaned = [block for block in reversed(old) if block.hash not in known]
        adopted = [block for block in new if block.hash not in {each.hash for each in old}]
        for block in orphaned:
            await self._announce(block, removed=True)
        for block in adopted:
            await self._announce(block)
            self.pool = {key: tx for key, tx in self.pool.items() if tx not in block.txs}
        return self.head

    async def mine(self, *events: Event) -> Block:
        """Mine a block of the mempool and of events on the own head, and move there."""
        self.tree.mine(*events, on=self.head, txs=tuple(self.pool.values()))
        return await self.follow()

    async def reorg(self, depth: int, *blocks: tuple[Event, ...]) -> Block:
        """Replace the newest blocks by others, one for each tuple of events."""
        tip = self.tree.below(self.head, depth)
        for events in blocks:
            tip = self.tree.mine(*events, on=tip)
        return await self.follow(tip)

    async def _announce(self, block: Block, *, removed: bool = False) -> None:
        for socket, subscriptions in list(self._sockets.items()):
            for name, (kind, asked) in subscriptions.items():
                told: list[dict[str, Any]] = [] if removed else [block.header()]
                if kind == "logs":
                    indexes = [at for at, event in enumerate(block.events) if _matches(event, asked)]
                    told = [block.log(index, removed=removed) for index in indexes]
                for result in [] if self.mute else told:
                    about = {"subscription": name, "result": result}
                    await self.tell(socket, {"method": "eth_subscription", "params": about})

    async def tell(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await self._send_to(socket, json.dumps({"jsonrpc": "2.0"} | message))

    async def tell_all(self, text: str) -> None:
        """Send raw text on every socket."""
        for socket in list(self._sockets):
            await self._send_to(socket, text)

    @staticmethod
    async def _send_to(socket: web.WebSocketResponse, text: str) -> None:
        with suppress(ConnectionError):  # whoever hung up hears nothing
            await socket.send_str(text)

    # --- requests ---

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.posts += 1
        try:
            body = await request.json()
        except ValueError:
            return web.json_response(_error(None, Refused(-32700, "parse error")))
        calls = body if isinstance(body, list) else [body]
        fault = self._next_fault({call.get("method") for call in calls if isinstance(call, dict)})
        await asyncio.sleep(3600 if fault is Fault.STALLED else self.delay_s)
        answers = [self._answer(call) for call in calls]
        if not answers:
            answers = [_error(None, Refused(-32600, "empty batch"))]
        spoilt = _spoil(answers, fault)
        text = json.dumps(spoilt if isinstance(body, list) and body else spoilt[0])
        return await self._send(request, text, fault)

    def _next_fault(self, methods: set[Any]) -> Fault | None:
        if self._always and self._always[1] in {None, *methods}:
            return self._always[0]
        if self._faults and self._faults[0][1] in {None, *methods}:
            return self._faults.popleft()[0]
        return None

    async def _send(self, request: web.Request, text: str, fault: Fault | None) -> web.StreamResponse:
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        if self.answers_all:
            status, said = self.answers_all
            text = said if isinstance(said, str) else json.dumps(said)
            return web.Response(status=status, text=text, headers=headers)
        if fault is Fault.THROTTLED:
            return web.Response(status=429, text="slow down", headers=headers)
        if fault is Fault.BAD_GATEWAY:
            return web.Response(status=502, text="<html>bad gateway</html>")
        if fault is Fault.BAD_JSON:
            text = text.replace('"', "'")
        if fault is Fault.TRUNCATED:
            text = text[: len(text) // 2]
        if fault is Fault.DROPPED:
            response = web.StreamResponse(headers={"Content-Length": str(len(text))})
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            assert request.transport
            request.transport.abort()
            return response
        return web.Response(text=text, content_type="application/json")

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets[socket] = {}
        self.connects += 1
        try:
            async for message in socket:
                if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    call = json.loads(message.data)
                    answer = self._answer(call, socket)
                    if not self.tight_lipped:
                        await self.tell(socket, answer)
        finally:
            del self._sockets[socket]
        return socket

    def _answer(self, call: Any, socket: web.WebSocketResponse | None = None) -> dict[str, Any]:
        given = call.get("id") if isinstance(call, dict) else None
        try:
            method, params = _well_formed(call)
            self.asked.append((method, params))
            if socket is not None and method in {"eth_subscribe", "eth_unsubscribe"}:
                return _result(given, self._subscription(method, params, self._sockets[socket]))
            _must(method in METHODS, f"the method {method} does not exist/is not available", code=-32601)
            return _result(given, METHODS[method](self, *params))
        except Refused as refusal:
            return _error(given, refusal)
        except TypeError as error:
            # Python counts the arguments; what they are is checked by each method.
            return _error(given, Refused(-32602, f"invalid arguments: {error}"))

    @staticmethod
    def _subscription(
        method: str, params: list[Any], subscriptions: dict[str, tuple[str, dict[str, Any]]]
    ) -> Any:
        if method == "eth_unsubscribe":
            return subscriptions.pop(params[0], None) is not None
        kind, asked = params[0], params[1] if len(params) > 1 else {}
        if kind not in {"newHeads", "logs"}:
            raise Refused(-32601, f"no {kind!r} subscription in eth namespace")
        name = f"0x{len(subscriptions) + 1:x}"
        subscriptions[name] = (kind, asked)
        return name

    # --- methods; a parameter too many or too few is a TypeError ---

    def _chain_id(self) -> str:
        return hex(self.chain_id)

    def _client_version(self) -> str:
        return "stub/1"

    def _block_number(self) -> str:
        return hex(self.head.number)

    def _get_block_by_number(self, tag: Any, full: Any) -> Any:
        _must(full is False, "full blocks are not served")
        _must(isinstance(tag, str), "expected a block number")
        try:
            return self._at(tag).header()
        except Refused as refusal:
            if refusal.error["code"] == -32602:
                raise
            return None

    def _get_block_by_hash(self, block_hash: Any, full: Any) -> Any:
        _must(full is False, "full blocks are not served")
        block = self._known(_hash(block_hash))
        return None if block is None else block.header()

    def _get_code(self, address: Any, at: Any) -> str:
        _address(address)
        self._at(at)
        return "0x00"

    def _get_balance(self, address: Any, at: Any) -> str:
        _address(address)
        self._at(at)
        return hex(10**18)

    def _get_transaction_count(self, address: Any, at: Any) -> str:
        return hex(self._nonce(_address(address), self._at(at)))

    def _fee_history(self, count: Any, newest: Any, percentiles: Any) -> dict[str, Any]:
        _must(isinstance(percentiles, list), "expected percentiles")
        block, length = self._at(newest), _quantity(count)
        fees = [hex(block.base_fee_wei)] * (length + 1)
        return {"oldestBlock": hex(block.number - length + 1), "baseFeePerGas": fees}

    def _call(self, tx: Any, at: Any, *overrides: Any) -> str:
        _must(isinstance(tx, dict) and tx.keys() <= {"from", "to", "data", "gas", "value"}, "bad transaction")
        _must(len(overrides) <= 2 and (self.takes_overrides or not overrides), "too many arguments")
        _must(all(isinstance(each, dict) for each in overrides), "bad overrides")
        lent = overrides[0].get(tx.get("to"), {}) if overrides else {}
        _must(lent.keys() <= {"code"}, "bad overrides")
        return self.eth_call(self._at(at), tx | lent)

    def _get_logs(self, asked: Any) -> list[dict[str, Any]]:
        keys = {"address", "topics", "fromBlock", "toBlock", "blockHash"}
        _must(isinstance(asked, dict) and asked.keys() <= keys, "bad filter")
        _must("blockHash" not in asked or not asked.keys() & {"fromBlock", "toBlock"}, "hash and range")
        if "blockHash" in asked:
            block = self._known(_hash(asked["blockHash"]))
            if block is None:
                raise Refused(-32000, "unknown block")
            blocks = [block]
        else:
            low, high = (self._number(asked.get(key, "latest")) for key in ("fromBlock", "toBlock"))
            _must(low <= high, "invalid block range params")
            if self.most_blocks is not None and high - low >= self.most_blocks:
                raise Refused(-32602, f"range {high - low + 1} exceeds limit of {self.most_blocks}")
            blocks = self.tree.line(self.head)[low : high + 1]
        logs = [
            block.log(index)
            for block in blocks
            for index, event in enumerate(block.events)
            if _matches(event, asked) and not self.leaves_out(block, index)
        ]
        if self.most_results is not None and len(logs) > self.most_results:
            raise Refused(-32005, f"query returned more than {self.most_results} results")
        return logs

    def _get_transaction_receipt(self, tx_hash: Any) -> Any:
        wanted = _hash(tx_hash)
        for block in self.tree.line(self.head):
            for tx in block.txs:
                if tx.hash == wanted:
                    return {
                        "transactionHash": tx.hash,
                        "blockHash": block.hash,
                        "blockNumber": hex(block.number),
                        "status": "0x1",
                        "gasUsed": hex(21_000),
                        "effectiveGasPrice": hex(min(tx.max_fee_wei, block.base_fee_wei + tx.tip_wei)),
                    }
        return None

    def _send_raw_transaction(self, raw: Any) -> str:
        tx = _decoded(raw)
        if tx.hash in self.pool:
            raise Refused(-32000, "already known")
        if tx.nonce < self._nonce(tx.sender, self.head):
            raise Refused(-32000, "nonce too low")
        rivals = [each for each in self.pool.values() if (each.sender, each.nonce) == (tx.sender, tx.nonce)]
        for rival in rivals:
            # geth's price bump: both fees at least 10 % higher.
            if 10 * tx.max_fee_wei < 11 * rival.max_fee_wei or 10 * tx.tip_wei < 11 * rival.tip_wei:
                raise Refused(-32000, "replacement transaction underpriced")
            del self.pool[rival.hash]
        self.pool[tx.hash] = tx
        return tx.hash

    def _send_bundle(self, bundle: Any) -> dict[str, str]:
        _must(isinstance(bundle, dict) and {"txs", "blockNumber"} <= bundle.keys(), "bad bundle")
        hashes = [_decoded(raw).hash for raw in bundle["txs"]]
        _must(_quantity(bundle["blockNumber"]) > self.head.number, "block of the bundle is past")
        self.bundles.append(bundle)
        return {"bundleHash": "0x" + keccak(hexstr="".join(each[2:] for each in hashes)).hex()}

    # --- looking up ---

    def _known(self, block_hash: str) -> Block | None:
        """Return a block of the own branch; whatever else the tree holds is unknown here."""
        block = self.tree.blocks.get(block_hash)
        if block is None or block.number > self.head.number:
            return None
        return block if self.tree.below(self.head, self.head.number - block.number) == block else None

    def _number(self, tag: Any) -> int:
        named = {"latest": self.head.number, "pending": self.head.number, "earliest": 0}
        return named[tag] if isinstance(tag, str) and tag in named else _quantity(tag)

    def _at(self, tag: Any) -> Block:
        if isinstance(tag, dict):
            _must(tag.keys() <= {"blockHash", "requireCanonical"}, "bad block identifier")
            block = self._known(_hash(tag.get("blockHash")))
            if block is None:
                raise Refused(-32000, "header for hash not found")
            return block
        number = self._number(tag)
        if number > self.head.number:
            raise Refused(-32000, "header not found")
        return self.tree.below(self.head, self.head.number - number)

    def _nonce(self, sender: str, block: Block) -> int:
        return sum(tx.sender == sender for each in self.tree.line(block) for tx in each.txs)


def _matches(event: Event, asked: dict[str, Any]) -> bool:
    addresses = asked.get("address", [])
    wanted = [addresses] if isinstance(addresses, str) else addresses
    if wanted and event.address.lower() not in {each.lower() for each in wanted}:
        return False
    for position, choice in enumerate(asked.get("topics", [])):
        options = [choice] if isinstance(choice, str) else choice
        if options and (position >= len(event.topics) or event.topics[position] not in options):
            return False
    return True


def _decoded(raw: Any) -> Tx:
    _must(isinstance(raw, str) and DATA.fullmatch(raw) is not None, "expected bytes in hex")
    try:
        sender = Account.recover_transaction(raw).lower()
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    except Exception as error:
        raise Refused(-32000, f"rlp: {error}") from error
    return Tx(
        hash="0x" + keccak(hexstr=raw).hex(),
        sender=sender,
        nonce=int(fields["nonce"]),
        max_fee_wei=int(fields["maxFeePerGas"]),
        tip_wei=int(fields["maxPriorityFeePerGas"]),
    )


# --- strictness ------------------------------------------------------------------------------------


def _well_formed(call: Any) -> tuple[str, list[Any]]:
    keys = {"jsonrpc", "id", "method", "params"}
    if not isinstance(call, dict) or call.keys() != keys or call["jsonrpc"] != "2.0":
        raise Refused(-32600, "invalid request")
    if type(call["id"]) not in {int, str} or not isinstance(call["method"], str):
        raise Refused(-32600, "invalid request")
    _must(isinstance(call["params"], list), "non-array args")
    return call["method"], call["params"]


def _must(holds: bool, message: str, *, code: int = -32602) -> None:
    if not holds:
        raise Refused(code, message)


def _quantity(value: Any) -> int:
    _must(isinstance(value, str) and QUANTITY.fullmatch(value) is not None, f"not a quantity: {value}")
    return int(value, 16)


def _hash(value: Any) -> str:
    _must(isinstance(value, str) and len(value) == 66 and DATA.fullmatch(value) is not None, "not a hash")
    return str(value).lower()


def _address(value: Any) -> str:
    _must(isinstance(value, str) and len(value) == 42 and DATA.fullmatch(value) is not None, "not an address")
    return str(value).lower()


def _result(given: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": given, "result": result}


def _error(given: Any, refusal: Refused) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": given, "error": refusal.error}


def _spoil(answers: list[dict[str, Any]], fault: Fault | None) -> list[dict[str, Any]]:
    first, *others = answers
    if fault is Fault.WRONG_ID:
        return [first | {"id": first["id"] + 1000}, *others]
    if fault is Fault.TEXT_ID:
        return [first | {"id": str(first["id"])}, *others]
    if fault is Fault.DUPLICATE_ID:
        return [first, *others, first] if others else [first | {"id": 0}]
    if fault is Fault.NO_VERSION:
        return [{key: value for key, value in first.items() if key != "jsonrpc"}, *others]
    if fault is Fault.LEFT_OUT and others:
        return others
    if fault is Fault.INTERNAL:
        return [_error(each["id"], Refused(-32603, "internal error")) for each in answers]
    return answers


METHODS: dict[str, Callable[..., Any]] = {
    "eth_chainId": StubNode._chain_id,
    "web3_clientVersion": StubNode._client_version,
    "eth_blockNumber": StubNode._block_number,
    "eth_getBlockByNumber": StubNode._get_block_by_number,
    "eth_getBlockByHash": StubNode._get_block_by_hash,
    "eth_getCode": StubNode._get_code,
    "eth_getBalance": StubNode._get_balance,
    "eth_getTransactionCount": StubNode._get_transaction_count,
    "eth_feeHistory": StubNode._fee_history,
    "eth_call": StubNode._call,
    "eth_getLogs": StubNode._get_logs,
    "eth_getTransactionReceipt": StubNode._get_transaction_receipt,
    "eth_sendRawTransaction": StubNode._send_raw_transaction,
    "eth_sendBundle": StubNode._send_bundle,
}
