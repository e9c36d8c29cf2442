"""Transactions to oracles that are in a node's pool, and what another would do right behind them.

Heard over a websocket of its own (``newPendingTransactions`` with whole transactions), simulated by
``eth_simulateV1``. Who signed an announced transaction its node has checked; what it does is not taken from
it, but run. One that is never included costs whoever went behind it a revert, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import structlog

from keeper.chain.pool import Pool
from keeper.chain.rpc import without_secrets
from keeper.chain.stream import ENDS, ask, json_of, opened
from keeper.chain.wire import MALFORMED, quantity
from keeper.domain import Announced, Call, ChainTime, Fees, Reason, Refuse
from keeper.errors import ChainFault

log = structlog.get_logger()

WAIT_S = 5.0
"""After a socket was lost."""


class Mempool:
    """Implements ``ports.Mempool`` over the nodes of one chain."""

    def __init__(
        self, rpc: Pool, ws_urls: Sequence[str], oracles: Collection[str], lent: Mapping[str, str]
    ) -> None:
        """Listen for what is sent to ``oracles``; calls to addresses in ``lent`` run the code given there."""
        self._rpc = rpc
        self._urls = list(ws_urls)
        self._oracles = frozenset(each.lower() for each in oracles)
        self._lent = lent

    async def announced(self) -> AsyncGenerator[Announced, None]:
        """Yield what is sent to the oracles, for ever; a socket that is lost is left for the next one's."""
        while True:
            try:
                async with aclosing(self._listen()) as heard:
                    async for found in heard:
                        yield found
                why = "closed by the node"
            except ENDS as error:
                why = str(error) if isinstance(error, ChainFault) else type(error).__name__
            log.warning(
                "mempool.socket_lost", endpoint=without_secrets(self._urls[0]), why=why, wait_s=WAIT_S
            )
            self._urls.append(self._urls.pop(0))
            await asyncio.sleep(WAIT_S)

    async def _listen(self) -> AsyncGenerator[Announced, None]:
        async with opened(self._urls[0]) as (socket, limit):
            await ask(socket, 1, "eth_subscribe", ["newPendingTransactions", True])
            limit.reschedule(None)
            async for message in socket:
                raw = json_of(message)["params"]["result"]
                if not isinstance(raw, dict):
                    raise ChainFault("the node announces hashes, and not whole transactions")
                if str(raw.get("to") or "").lower() in self._oracles:
                    yield announced_of(raw)

    async def behind(
        self, before: Sequence[Announced], call: Call, at: ChainTime, sender: str, gas_limit: int
    ) -> bytes | Refuse:
        """Run a transaction behind others; see ``ports.Mempool``."""
        codes = dict(call.codes)
        if code := self._lent.get(call.to.lower()):
            codes[call.to] = code
        block = {
            "blockOverrides": {"number": hex(at.block), "time": hex(at.timestamp_s)},
            "stateOverrides": {address: {"code": code} for address, code in codes.items()},
            "calls": [
                *(_call(each.sender, each.call, each.gas) for each in before),
                _call(sender, call, gas_limit),
            ],
        }
        found = await self._rpc.request("eth_simulateV1", [{"blockStateCalls": [block]}, "latest"])
        try:
            *others, own = found[0]["calls"]
            for each, result in zip(before, others, strict=True):
                if quantity(result["status"]) != 1:
                    raise ChainFault(f"the announced transaction {each.tx_hash} would revert")
            if quantity(own["status"]) == 1:
                return bytes.fromhex(own["returnData"][2:])
            error = own["error"]
            evidence = error.get("data") or own["returnData"]
            if evidence in {None, "0x"}:
                evidence = error.get("message", "no data, no message")
        except MALFORMED as error:
            raise ChainFault(f"eth_simulateV1: an answer of another shape: {error!r}") from error
        return Refuse(Reason("simulation.reverted", str(evidence), "must not revert"))


def announced_of(raw: Mapping[str, Any]) -> Announced:
    """Read a whole transaction as nodes announce it."""
    call = Call(raw["to"].lower(), bytes.fromhex(raw["input"][2:]))
    return Announced(raw["hash"], raw["from"].lower(), call, quantity(raw["gas"]), _fees(raw))


def _fees(raw: Mapping[str, Any]) -> Fees:
    """Read what it bids; beside a highest fee nodes tell a gas price, too, which is what it may come to."""
    if raw.get("maxFeePerGas") is None:
        price_wei = quantity(raw["gasPrice"])
        return Fees(price_wei, price_wei, is_flat=True)
    return Fees(quantity(raw["maxFeePerGas"]), quantity(raw["maxPriorityFeePerGas"]))


def _call(sender: str, call: Call, gas: int) -> dict[str, str]:
    return {"from": sender, "to": call.to, "input": "0x" + call.data.hex(), "gas": hex(gas)}
