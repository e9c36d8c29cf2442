"""Sends transactions that may be repeated without harm, such as price reports: no permit, no journal.

The oracle takes each observation once, so a report sent twice costs gas and changes nothing. Whatever
moves positions or bonds goes through ``ChainSender`` and its Permit instead.
"""

from __future__ import annotations

from keeper.domain import Call, Fees, Head
from keeper.errors import ChainFault
from keeper.execute.fees import FeeParams, Market, choose_fees
from keeper.execute.sender import Rpc
from keeper.execute.signer import Signer


class PlainSender:
    """One wallet that sends at most one transaction per head."""

    def __init__(
        self, rpc: Rpc, signer: Signer, *, chain_id: int, gas_limit: int, fees: FeeParams | None = None
    ) -> None:
        self._rpc = rpc
        self._signer = signer
        self._chain_id = chain_id
        self._gas_limit = gas_limit
        self._fees = fees or FeeParams()

    @property
    def address(self) -> str:
        """The wallet's address in lower case."""
        return self._signer.address

    async def has_pending(self) -> bool:
        """Tell whether one of the wallet's transactions waits to be included."""
        counts = [
            int(await self._rpc.request("eth_getTransactionCount", [self.address, block]), 16)
            for block in ("latest", "pending")
        ]
        return counts[1] > counts[0]

    async def _market(self, head: Head) -> Market:
        """Ask for the gas price, on a chain without EIP-1559."""
        if head.base_fee_wei is not None:
            return Market()
        return Market(gas_price_wei=int(await self._rpc.request("eth_gasPrice", []), 16))

    async def post(self, call: Call, head: Head) -> str:
        """Sign and send with the next nonce of the chain's latest state; return the hash.

        A transaction of an earlier head that is still pending has the same nonce and is replaced where the
        fee rules allow it: an old report is worth nothing once there is a newer one.
        """
        fees = choose_fees(head.base_fee_wei, self._fees, await self._market(head))
        if not isinstance(fees, Fees):
            raise ChainFault(f"no report sent: {fees.reason}")
        nonce = int(await self._rpc.request("eth_getTransactionCount", [self.address, "latest"]), 16)
        signed = await self._signer.sign(
            {
                "chainId": self._chain_id,
                "to": call.to,
                "data": "0x" + call.data.hex(),
                "value": 0,
                "gas": self._gas_limit,
                "nonce": nonce,
                **fees.fields(),
            }
        )
        await self._rpc.request("eth_sendRawTransaction", ["0x" + signed.raw.hex()])
        return signed.tx_hash
