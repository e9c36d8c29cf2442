"""The least that a price to the wire takes in Python: ``python -m keeper.lab.floor VENUE NODE FILE``.

It hears the same message on the same kind of socket as a keeper, and sends a signed transaction of the same
size to the same kind of node, once it is on disk. In between is one comparison: no book, no judgement, no
limits. What a keeper takes longer than that is its own; what this takes is the machine's.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import orjson
import uvloop
from eth_account import Account

from keeper.execute.keys import LocalSigner
from keeper.feeds.venues import kraken
from keeper.lab.world import person

SYMBOL = "BTC/USD"
TX = {
    "type": 2,
    "chainId": 31337,
    "to": "0x" + "d1" * 20,
    "data": "0x" + "a5" * 132,
    "value": 0,
    "gas": 600_000,
    "maxFeePerGas": 2 * 10**9,
    "maxPriorityFeePerGas": 10**9,
}


async def descend(venue: str, node: str, db: sqlite3.Connection) -> None:
    """Send a transaction at each new low of a price, until the venue goes away."""
    signer, lowest, nonce = LocalSigner(Account.from_key(person(1, "keeper").key)), float("inf"), 0
    wire, at = await _connected(node), urlsplit(node).netloc
    async with aiohttp.ClientSession() as session, session.ws_connect(venue) as socket:
        [subscription] = kraken.subscriptions([SYMBOL])
        await socket.send_str(subscription)
        async for message in socket:
            said = orjson.loads(message.data)
            if said.get("channel") != "ticker" or not (price := said["data"][0]["bid"]) < lowest:
                continue
            lowest, signed = price, signer.at_once({**TX, "nonce": nonce})
            with _committed(db):
                db.execute("INSERT INTO sent (nonce, raw) VALUES (?, ?)", (nonce, signed.raw))
            wire.write(_request(at, signed.raw))
            nonce += 1


@contextmanager
def _committed(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("COMMIT")


async def _connected(node: str) -> asyncio.WriteTransport:
    """Connect to a node whose answers nobody reads."""
    host, _, port = urlsplit(node).netloc.partition(":")
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
    return transport


def _request(at: str, raw: bytes) -> bytes:
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": ["0x" + raw.hex()]}
    body = orjson.dumps(call)
    head = f"POST / HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def main() -> None:
    """Lay out the file, and listen."""
    venue, node, file = sys.argv[1:]
    with closing(sqlite3.connect(Path(file), isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE sent (nonce INTEGER PRIMARY KEY, raw BLOB NOT NULL)")
        uvloop.run(descend(venue, node, db))


if __name__ == "__main__":
    main()
