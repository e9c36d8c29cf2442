"""Signs, sends and follows transactions; leaves a step in flight until the chain itself says how it ended.

While there is no signature a step keeps its nonce: whoever holds the key is asked again at the next head,
until the step is no longer valid. Nothing is locked meanwhile, and nobody waits twice at one head.

Three answers to a send: the node has it, the node definitely refused it, or nobody knows. Only a refusal
of bytes that were never sent before ends a step without chain evidence; nobody knowing counts as sent,
and the same bytes go out again until there is evidence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from keeper.answers import HAS, REFUSALS, Answer, read
from keeper.domain import Call, EventKind, Fees, Head, Log, Permit, Reason, Refuse, Step, Wait
from keeper.errors import ChainFault, InvariantBroken, SignerFault
from keeper.execute.batches import apart
from keeper.execute.fees import HISTORY_BLOCKS, FeeParams, Market, bid_for, choose_fees, outbid, tip_paid
from keeper.execute.filler import Filler, Purse, newest
from keeper.execute.levy import DataCost, Levy, gas_of
from keeper.execute.signer import UNSENDABLE, Signed, Signer
from keeper.execute.stuck import Patience, due
from keeper.execute.transports import Asked, Parcel, Passed, Tally, Via, route_of
from keeper.ports import (
    LIVE,
    NOTHING_MORE,
    Aftermath,
    Bid,
    BidKind,
    Outbox,
    Outcome,
    Review,
    Sealed,
    StepRecord,
    StepState,
)
from keeper.units import Block, Wei

log = structlog.get_logger()


class Rpc(Protocol):
    """The JSON-RPC client, as far as a sender needs it; raises ChainFault with the node's words."""

    async def request(self, method: str, params: list[Any]) -> Any:
        """Send one request, once: a write is not repeated behind the sender's back."""
        ...

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """Send several requests to one node and return their results in order."""
        ...


@dataclass(frozen=True, slots=True)
class Params:
    """How to bid and how long to wait, in blocks."""

    fees: FeeParams = field(default_factory=FeeParams)
    resend_after_blocks: int = 3
    """Send the same bytes again when a transaction is this long without an outcome."""
    patience: Patience = field(default_factory=Patience)
    """When to bid more."""
    cancel_gas: int = 21_000
    """What a transfer of nothing to oneself takes."""
    displaced_after_blocks: int = 2
    """How long another transaction must have held our nonce before ours counts as displaced."""
    recheck_blocks: int = 64
    """At start, how far back recorded outcomes are looked at again, for reorgs while we were down."""
    via: tuple[Via, ...] = (Via.PUBLIC,)
    """Who is handed a transaction, one after the other."""
    private_blocks: Block = 3
    """How long each of them but the last has it to itself."""
    levy: Levy | None = None
    """Who tells what a transaction pays for its bytes, where another chain keeps them."""
    dry_run: bool = False
    """Sign and send nothing, on no path; what is in flight is still followed."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What came of handing a transaction over: who answered how, and who had declined before."""

    answer: Answer
    words: str = ""
    via: Via | None = None
    """Who has it, or may have it; None where nobody was asked."""
    passed: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """Return it as an event keeps it."""
        told = {"answer": self.answer, "words": self.words, "via": self.via, "passed": dict(self.passed)}
        return {name: value for name, value in told.items() if value}


STALE_BLOCKS: Block = 20
"""After so many blocks without an answer, what was heard of fees no longer counts."""


def judge(
    step: StepRecord, receipts: Mapping[str, Mapping[str, Any] | None], used: int, head: Head
) -> Outcome | None:
    """Say how a step has ended as of ``head``, by the receipts of its transactions; None without evidence.

    ``used`` is the wallet's transaction count some blocks below the head: a nonce below it is spent, and
    without a receipt of ours it was spent by another transaction. Where it was spent by a cancel of ours, the
    step is displaced as well, and costs what that did. What filled nonces below for it, it has cost besides.
    Of a batch, each act has an outcome of its own.
    """
    found = [(tx_hash, seen) for tx_hash in step.hashes if (seen := receipts[tx_hash]) is not None]
    filled_wei = sum(_cost_wei(seen) for each in step.fill_hashes if (seen := receipts[each]) is not None)
    if not found:
        displaced = Outcome(EventKind.DISPLACED, head.number, head.hash, filled_wei)
        return apart(step, displaced) if step.nonce < used else None
    tx_hash, receipt = found[0]
    block = int(receipt["blockNumber"], 16)
    if block > head.number:
        return None
    kind = EventKind.INCLUDED if int(receipt["status"], 16) == 1 else EventKind.REVERTED
    if (bid := step.bid_of(tx_hash)) is not None and bid.kind is BidKind.CANCEL:
        kind = EventKind.DISPLACED
    cost_wei = _cost_wei(receipt) + filled_wei
    logs = map(_log, receipt.get("logs", ())) if kind is EventKind.INCLUDED else ()
    place = receipt.get("transactionIndex")
    tx_index = None if place is None else int(place, 16)
    whole = Outcome(kind, block, receipt["blockHash"], cost_wei, tx_hash, tuple(logs), tx_index)
    return apart(step, whole)


def _cost_wei(receipt: Mapping[str, Any]) -> Wei:
    gas_wei = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    return gas_wei + int(receipt.get("l1Fee") or "0x0", 16)


def _log(raw: Mapping[str, Any]) -> Log:
    return Log(
        raw["address"].lower(),
        tuple(bytes.fromhex(topic[2:]) for topic in raw["topics"]),
        bytes.fromhex(raw["data"][2:]),
        int(raw["blockNumber"], 16),
        raw["blockHash"],
        raw["transactionHash"],
        int(raw["logIndex"], 16),
    )


class ChainSender:
    """Implements ``ports.Sender`` for one wallet on one chain.

    Call ``resume`` before anything else, then ``track`` at every head, all from one task: chain time is
    that of the head given last.
    """

    def __init__(
        self,
        rpc: Rpc,
        outbox: Outbox,
        signer: Signer,
        *,
        chain_id: int,
        params: Params | None = None,
        relay: Asked | None = None,
    ) -> None:
        self._rpc = rpc
        self._outbox = outbox
        self._signer = signer
        self._chain_id = chain_id
        self._params = params or Params()
        self._now: Head | None = None
        self._chain_nonce: int | None = None
        self._balance_wei: Wei = 0
        self._recheck_from: Block | None = None
        self._last_sent: dict[str, Block] = {}
        self._silent: SignerFault | None = None
        """Why nobody signs at this head: asked once, it is not waited for again."""
        self._unsigned: dict[str, SignerFault] = {}
        self._ahead: tuple[Mapping[str, Any], Signed] | None = None
        """A transaction that was signed before its permit was asked for: it goes nowhere without."""
        self._route = route_of(self._params.via, rpc, relay, blocks=self._params.private_blocks)
        self._carriers: dict[str, tuple[int, Via]] = {}
        """Who took each step's bytes last, or is to; a start forgets it, and goes by the age of each."""
        self._unclear: dict[Via, Block] = {}
        """At which head a transport last said nothing that could be understood."""
        self._filler = Filler(
            outbox,
            signer,
            self._hand_over_fill,
            chain_id=chain_id,
            patience=self._params.patience,
        )
        self._market = Market()
        self._data_cost: DataCost | None = None
        self._heard_at: Block | None = None
        self._known_at: Block = 0
        self._expected_nonce: int | None = None
        """Up to which nonce it is known who used them; None until the chain was asked."""
        self._used_before = 0
        """Nonces below were used before this start."""

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """What became of what each transport was handed since the start."""
        return {via.value: tally for via, tally in self._route.tallies.items()}

    @property
    def address(self) -> str:
        """The wallet's address in lower case."""
        return self._signer.address

    @property
    def chain_nonce(self) -> int:
        """The wallet's next nonce at the newest head, after ``prepare``."""
        _ = self._head
        if self._chain_nonce is None:
            raise InvariantBroken("a sender must be prepared at a head before it gives out its nonce")
        return self._chain_nonce

    @property
    def balance_wei(self) -> Wei:
        """The wallet's native balance at that head."""
        _ = self.chain_nonce
        return self._balance_wei

    @property
    def _head(self) -> Head:
        if self._now is None:
            raise InvariantBroken("a sender must resume at a head before it is used")
        return self._now

    @property
    def data_fee_wei(self) -> Wei:
        """What a transaction pays for its data besides its gas, as it was known last, and at the most."""
        return self._data_cost.fee_wei if self._data_cost else 0

    @property
    def data_gas(self) -> int:
        """The same as more gas, of a transaction of the size that was asked about."""
        return self._data_cost.gas if self._data_cost else 0

    def _gas(self, gas: int, size: int) -> int:
        """Return the gas limit of a transaction with so much calldata, its bytes paid for."""
        if self._params.levy is None or self._data_cost is None:
            return gas
        return gas + gas_of(self._data_cost, self._params.levy, size)

    def fees(self, head: Head) -> Fees | Refuse:
        """Choose the fees that last longest."""
        if self._params.levy is not None and self._data_cost is None:
            return Refuse(Reason("fees.unknown", "nobody tells what data costs", "an answer"))
        return choose_fees(head.base_fee_wei, self._params.fees, self._market)

    def bid(self, step: Step, head: Head) -> Fees | Refuse:
        """Choose the fees of one step: for as long as it is valid, and no more than it brings."""
        return bid_for(step, head.number, head.base_fee_wei, self._params.fees, self._market)

    def transaction(self, call: Call, gas_limit: int, fees: Fees) -> dict[str, Any]:
        """Build the transaction to reserve, whole but for its nonce."""
        return {
            "chainId": self._chain_id,
            "to": call.to,
            "data": "0x" + call.data.hex(),
            "value": 0,
            "gas": self._gas(gas_limit, len(call.data)),
            **fees.fields(),
        }

    async def prepare(self) -> None:
        """Ask for the wallet's nonce and balance, where nothing in flight has had that done at this head."""
        if self._chain_nonce is None:
            await self._outcomes((), self._head)
        await self._hear_fees(self._head)

    async def _hear_fees(self, head: Head) -> None:
        """Ask what others pay, once a head, where it matters; the last answer stays a while."""
        if self._heard_at == head.number:
            return
        self._heard_at = head.number
        try:
            self._market = await self._ask_market(head)
            self._data_cost = await self._ask_levy(head)
        except (ChainFault, LookupError, TypeError, ValueError) as fault:
            log.warning("fees.unheard", block=head.number, why=str(fault))
            if head.number > self._known_at + STALE_BLOCKS:
                self._market, self._data_cost = Market(), None
        else:
            self._known_at = head.number

    async def _ask_market(self, head: Head) -> Market:
        if head.base_fee_wei is None:
            return Market(gas_price_wei=int(await self._rpc.request("eth_gasPrice", []), 16))
        asked = [hex(HISTORY_BLOCKS), hex(head.number), [self._params.fees.tip_percentile]]
        return Market(tip_wei=tip_paid(await self._rpc.request("eth_feeHistory", asked)))

    async def _ask_levy(self, head: Head) -> DataCost | None:
        if (levy := self._params.levy) is None:
            return None
        call = levy.call()
        asked = [{"to": call.to, "data": "0x" + call.data.hex()}, hex(head.number)]
        return levy.read(await self._rpc.request("eth_call", asked))

    async def balance(self) -> Wei:
        """Return the wallet's native balance."""
        return int(await self._rpc.request("eth_getBalance", [self.address, "latest"]), 16)

    @property
    def is_prepared(self) -> bool:
        """Whether nonce, balance and fees of the newest head were asked for."""
        return self._chain_nonce is not None and self._heard_at == self._head.number

    @property
    def seals(self) -> bool:
        """Whether it can sign within a transaction."""
        return not self._params.dry_run and self._signer.at_once is not None

    def seal(self, permits: Sequence[Permit]) -> tuple[Sealed, ...]:
        """Sign what was permitted in the transaction that is open, and write the bytes into it.

        Permit and bytes come to disk by one wait. The permit has looked for halts and strangers, and nobody
        was waited for since.
        """
        sign = self._signer.at_once
        if sign is None:
            raise InvariantBroken(f"the key of {self.address} is elsewhere: nothing is signed at once")
        sealed = []
        for permit in permits:
            step = self._outbox.step(permit.step_id)
            signed = self._signed_ahead(step.unsigned_tx) or sign(step.unsigned_tx)
            self._outbox.sign(step.step_id, signed.raw, signed.tx_hash, bid=step.last.number)
            sealed.append(Sealed(step, signed.raw, signed.tx_hash))
        return tuple(sealed)

    def _signed_ahead(self, tx: Mapping[str, Any]) -> Signed | None:
        return self._ahead[1] if self._ahead is not None and self._ahead[0] == tx else None

    def rehearse(self, tx: Mapping[str, Any]) -> None:
        """Sign a transaction ahead, where the key is here; a permit for this very one takes these bytes."""
        if self._params.dry_run or (sign := self._signer.at_once) is None:
            return
        if self._signed_ahead(tx) is not None:
            # Another one may be permitted: its signature is not to run cold.
            sign(UNSENDABLE)
        else:
            self._ahead = tx, sign(tx)

    async def send(
        self,
        permits: Sequence[Permit],
        *,
        sealed: Sequence[Sealed] = (),
        tick_ns: int | None = None,
        in_public: bool = False,
    ) -> tuple[str | Refuse | Wait, ...]:
        """Sign, commit the signed bytes, send them; return the hashes, or the node's definite refusals.

        A Wait says that there is no signature yet: the step stays reserved, and is tried again.
        """
        if in_public and (place := self._route.place_of(Via.PUBLIC)) is not None:
            self._carriers |= {permit.step_id: (place, Via.PUBLIC) for permit in permits}
        if sealed:
            signed = [(each.step, Signed(each.raw, each.tx_hash)) for each in sealed]
            answers = await self._pass_on([each.step for each in sealed], signed, {}, tick_ns)
        else:
            answers = await self._deliver([self._outbox.step(permit.step_id) for permit in permits], tick_ns)
        if any(isinstance(answer, Refuse) for answer in answers):
            await self._fill_gaps()
        return answers

    async def resume(self, head: Head, review: Review | None = None) -> tuple[StepRecord, ...]:
        """Deliver what the journal holds as live, then follow it as ``track`` does."""
        self._now, self._silent = head, None
        await self._deliver(self._still_valid(self._outbox.live_steps()))
        done = self._outbox.last_head()
        # What the keeper saw last may have been taken back at any time since.
        self._recheck_from = (
            min(head.number, done.number if done else head.number) - self._params.recheck_blocks
        )
        return await self._follow(review)

    async def track(
        self, head: Head, orphaned: Sequence[Head], review: Review | None = None
    ) -> tuple[StepRecord, ...]:
        """Look for outcomes at a new head, undo orphaned ones, send again what is due."""
        self._now, self._silent = head, None
        pending = [] if self._recheck_from is None else [self._recheck_from]
        self._recheck_from = min([*pending, *(each.number for each in orphaned)], default=None)
        return await self._follow(review)

    # --- out ---

    async def _deliver(
        self, steps: Sequence[StepRecord], tick_ns: int | None = None
    ) -> tuple[str | Refuse | Wait, ...]:
        """Hand steps' bytes to the node, lowest nonce first; write down what is known afterwards.

        Two commits for all of them: the signed bytes before the first is sent, the answers after the last.
        Only the first waits for the disk, unless a step has ended: what is lost of answers, a start asks for.
        """
        if void := [step.step_id for step in steps if step.state is StepState.ABANDONED]:
            raise InvariantBroken(f"abandoned, the permit is void: {', '.join(void)}")
        if self._params.dry_run:
            return tuple(self._withhold(step) for step in steps)
        signed = await self._signed(steps)
        with self._outbox.together():
            signed, stopped = self._held_up(signed)
            for step, each in signed:
                if each.tx_hash not in step.hashes:
                    self._outbox.sign(step.step_id, each.raw, each.tx_hash, bid=step.last.number)
        return await self._pass_on(steps, signed, stopped, tick_ns)

    async def _pass_on(
        self,
        steps: Sequence[StepRecord],
        signed: Sequence[tuple[StepRecord, Signed]],
        stopped: Mapping[str, Refuse],
        tick_ns: int | None,
    ) -> tuple[str | Refuse | Wait, ...]:
        """Hand over what is signed, and on disk; write down what became of all steps."""
        answers = await self._hand_over_all(signed)
        bytes_of = {step.step_id: each for step, each in signed}
        ended = any(said.answer in REFUSALS for said in answers.values())
        with self._outbox.together(lasting=ended):
            return tuple(
                stopped.get(step.step_id)
                or self._told(step, bytes_of.get(step.step_id), answers.get(step.step_id), tick_ns)
                for step in steps
            )

    def _held_up(
        self, signed: Sequence[tuple[StepRecord, Signed]]
    ) -> tuple[list[tuple[StepRecord, Signed]], dict[str, Refuse]]:
        """Return what goes out, and what does not: a halt, or a stranger, may have come after the permit.

        Whoever holds the key takes its time. What was never out is given up; of a raise, the bid before it
        goes on. Bytes that are on disk may be out already, and a cancel takes nothing.
        """
        fresh = {
            step.step_id
            for step, each in signed
            if each.tx_hash not in step.hashes and step.last.kind is not BidKind.CANCEL
        }
        why = self._outbox.stopped(self._head.timestamp_s) if fresh else None
        if why is None:
            return list(signed), {}
        reason = Reason("send.halted", f"{why.rule}: {why.evidence}", why.bound)
        going, stopped = [], {}
        for step, each in signed:
            if step.step_id not in fresh:
                going.append((step, each))
            elif step.signed_tx is None:
                stopped[step.step_id] = self._abandon(step, reason)
            else:
                dropped = self._drop(step, step.last, reason)
                going += [(dropped, known)] if (known := _last_signed(dropped)) is not None else []
        return going, stopped

    async def _hand_over_all(self, signed: Sequence[tuple[StepRecord, Signed]]) -> dict[str, Handed]:
        """Hand over in the order of the nonces; what comes after a refused nonce is not sent at all.

        It could not be included before the hole below it is filled, and would bar its account meanwhile.
        """
        answers: dict[str, Handed] = {}
        hole = ""
        for step, each in signed:
            if step.state not in LIVE:
                continue
            unsent = step.signed_tx is None
            said = Handed(Answer.REFUSED, hole) if unsent and hole else await self._hand_over(step, each)
            if unsent and said.answer in REFUSALS:
                hole = hole or f"nonce {step.nonce} below was refused: {said.words}"
            answers[step.step_id] = said
        return answers

    def _told(
        self,
        step: StepRecord,
        signed: Signed | None,
        said: Handed | None,
        tick_ns: int | None,
    ) -> str | Refuse | Wait:
        """Write down what became of a step, as far as anything did."""
        if signed is None:
            fault = self._unsigned[step.step_id]
            reason = Reason("send.unsigned", str(fault), f"a signature of {self.address}")
            return Wait(self._head.number + 1, reason)
        return signed.tx_hash if said is None else self._answered(step, signed.tx_hash, said, tick_ns)

    def _answered(self, step: StepRecord, tx_hash: str, said: Handed, tick_ns: int | None) -> str | Refuse:
        """Write down what a node said; only a refusal of bytes never sent before ends a step."""
        if said.answer in REFUSALS and step.signed_tx is None:
            return self._abandon(step, Reason("send.refused", said.words, "accepted by the node"))
        data = said.told()
        if tick_ns is not None:
            data["tick_to_tx_ms"] = (time.monotonic_ns() - tick_ns) / 1e6
        self._outbox.sent(step.step_id, block=self._head.number, at_s=self._head.timestamp_s, data=data)
        self._last_sent[step.step_id] = self._head.number
        log.info("tx.sent", step_id=step.step_id, tx_hash=tx_hash, nonce=step.nonce, **data)
        return tx_hash

    async def _signed(self, steps: Sequence[StepRecord]) -> list[tuple[StepRecord, Signed]]:
        """Return the steps that have their bytes, with these; have signed what was not yet.

        Of several bids it is the last, or the last that was signed while nobody signs.
        Of those never signed only such as have no unsigned nonce below them: the others could not be included
        before, and would bar their accounts.
        """
        found = await self._sign([step for step in steps if step.last.signed_tx is None])
        signed = []
        for step in steps:
            if step.step_id in found:
                signed.append((step, found[step.step_id]))
            elif (known := _last_signed(step)) is not None:
                signed.append((step, known))
        return signed

    async def _sign(self, steps: Sequence[StepRecord]) -> dict[str, Signed]:
        """Have steps signed, all at once; what lies above the first fault is left as it was."""
        asking = (
            () if self._silent is not None else [self._signer.sign(step.last.unsigned_tx) for step in steps]
        )
        if len(steps) == 1:
            # Awaited as it is: with a key of this process, without a turn of the loop.
            answers = [await _caught(each) for each in asking]
        else:
            answers = await asyncio.gather(*map(_caught, asking))
        found: dict[str, Signed] = {}
        for step, answer in zip(steps, answers, strict=False):
            if isinstance(answer, SignerFault):
                self._silent = answer
                break
            found[step.step_id] = answer
            self._unsigned.pop(step.step_id, None)
        for step in steps[len(found) :]:
            assert self._silent is not None
            self._unsigned[step.step_id] = self._silent
            log.warning("tx.unsigned", step_id=step.step_id, nonce=step.nonce, why=str(self._silent))
        return found

    def _still_valid(self, steps: Sequence[StepRecord]) -> list[StepRecord]:
        """Return the steps that may go out; abandon what was never signed, and could not be included in time.

        Nothing of it can be out.
        """
        valid, following = [], self._head.number + 1
        for step in steps:
            if step.signed_tx is not None or step.valid_until_block >= following:
                valid.append(step)
                continue
            bound = f"valid until block {step.valid_until_block}"
            fault = self._unsigned.pop(step.step_id, None)
            reason = Reason("send.validity", f"next block {following}", bound)
            if fault is not None:
                reason = Reason("send.unsigned", f"next block {following}; {fault}", bound)
            self._abandon(step, reason)
        return valid

    async def _hand_over(self, step: StepRecord, signed: Signed) -> Handed:
        """Hand bytes to the transport whose turn it is; where that one has not taken them, to the next.

        A refusal is definite only where all that were asked have refused: who is silent may have them. Such
        a one is passed over at the same head from then on, or every step would wait for it anew.
        """
        carrier, _ = self._carriers.get(step.step_id, (0, None))
        turn = max(carrier, self._route.turn(self._head.number - step.reserved_block))
        passed: dict[str, str] = {}
        last = Handed(Answer.REFUSED)
        for place, via, transport in self._route.from_(turn):
            if self._unclear.get(via) == self._head.number and not self._route.is_last(place):
                passed[via] = "silent at this head"
                continue
            began_s = time.monotonic()
            try:
                await transport.deliver(self._parcel(step, signed, via, place))
                said = Handed(Answer.TAKEN, via=via, passed=passed)
            except Passed as declined:
                passed[via] = str(declined)
                continue
            except ChainFault as fault:
                said = Handed(read(str(fault)), str(fault), via, dict(passed))
            self._route.tallies[via].note(said.answer, time.monotonic() - began_s)
            if said.answer in HAS:
                self._carriers[step.step_id] = place, via
                return said
            passed[via] = said.words
            if said.answer not in REFUSALS:
                self._unclear[via] = self._head.number
            if last.answer in REFUSALS:
                last = said
        return last

    async def _hand_over_fill(self, step: StepRecord, signed: Signed) -> None:
        """Hand over what fills a nonce to whoever comes last: it is worth nothing to anybody."""
        for place, via, transport in self._route.from_(self._route.end):
            answer, words = Answer.TAKEN, ""
            try:
                await transport.deliver(self._parcel(step, signed, via, place))
            except ChainFault as fault:
                answer, words = read(str(fault)), str(fault)
            log.info(
                "tx.sent", step_id=step.step_id, tx_hash=signed.tx_hash, nonce=step.nonce, via=via,
                answer=answer, words=words,
            )  # fmt: skip

    def _parcel(self, step: StepRecord, signed: Signed, via: Via, place: int) -> Parcel:
        """Wrap a step's bytes with what is in flight below them, and the blocks that they are meant for.

        The mempool needs neither: it orders by nonce on its own.
        """
        live = () if via is Via.PUBLIC else self._outbox.live_steps()
        out = {nonce: sent for each in live for nonce, sent in _out(each)}
        below = tuple((out[nonce].raw, out[nonce].tx_hash) for nonce in sorted(out) if nonce < step.nonce)
        first = self._head.number + 1
        return Parcel(signed.raw, below, first, self._route.last_block(place, step.reserved_block))

    def _withhold(self, step: StepRecord) -> Refuse:
        reason = Reason("dry_run", f"would have sent {step.kind}", "nothing is sent")
        return self._abandon(step, reason) if step.signed_tx is None else Refuse(reason)

    def _abandon(self, step: StepRecord, reason: Reason) -> Refuse:
        self._outbox.abandon(step.step_id, reason, block=self._head.number, at_s=self._head.timestamp_s)
        log.warning(
            "tx.abandoned", step_id=step.step_id, nonce=step.nonce, rule=reason.rule, why=reason.evidence
        )
        return Refuse(reason)

    def _drop(self, step: StepRecord, bid: Bid, reason: Reason) -> StepRecord:
        log.warning(
            "tx.bid_dropped", step_id=step.step_id, nonce=bid.nonce, rule=reason.rule, why=reason.evidence
        )
        head = self._head
        return self._outbox.drop(step.step_id, bid.number, reason, block=head.number, at_s=head.timestamp_s)

    # --- and back ---

    async def _follow(self, review: Review | None) -> tuple[StepRecord, ...]:
        """Compare the journal with the receipts, write down what differs, send again what is due.

        A node that fails leaves nothing out: the next head looks at the same steps again.
        """
        head, since = self._head, self._recheck_from
        self._chain_nonce = None
        believed = () if since is None else self._outbox.settled_since(since)
        followed = (*believed, *self._outbox.live_steps())
        found = await self._outcomes(followed, head) if followed else []
        moved = [(step, outcome) for step, outcome in found if not _same(step.outcome, outcome)]
        ended = [each for step, outcome in moved if outcome is not None for each in _acts(step, outcome)]
        reviewed = await review(ended) if review and ended else [NOTHING_MORE] * len(ended)
        said = {step.step_id: each for (step, _), each in zip(ended, reviewed, strict=True)}
        with self._outbox.together():
            self._recheck_from = None
            for step, outcome in moved:
                self._write(step, outcome, head, said)
        await self._resend(head)
        settled = [self._outbox.step(step.step_id) for step, _ in moved]
        return tuple(each for step in settled for each in (step, *step.carries))

    async def _outcomes(
        self, steps: Sequence[StepRecord], head: Head
    ) -> list[tuple[StepRecord, Outcome | None]]:
        """Ask for all receipts, for the nonces used and the balance, in one batch."""
        deep = max(head.number - self._params.displaced_after_blocks, 0)
        signed = [step for step in steps if step.tx_hash is not None]
        hashes = [tx_hash for step in signed for tx_hash in (*step.hashes, *step.fill_hashes)]
        counts = [("eth_getTransactionCount", [self.address, hex(number)]) for number in (head.number, deep)]
        balance = ("eth_getBalance", [self.address, hex(head.number)])
        receipts = [("eth_getTransactionReceipt", [tx_hash]) for tx_hash in hashes]
        now, used, left, *found = await self._rpc.batch([*counts, balance, *receipts])
        try:
            self._balance_wei = int(left, 16)
            self._chain_nonce = int(now, 16)
            seen = dict(zip(hashes, found, strict=True))
            if not self._params.dry_run:
                # Whose journal gives no nonce out takes a keeper beside it for nobody's.
                self._look_for_others(int(now, 16), head)
            judged = [judge(step, seen, int(used, 16), head) for step in signed]
        except (KeyError, TypeError, ValueError) as error:
            raise ChainFault(
                f"a count or a receipt at block {head.number} is incomplete: {error!r}"
            ) from error
        return list(zip(signed, judged, strict=True))

    def _look_for_others(self, chain_nonce: int, head: Head) -> None:
        """Say loudly that another program uses the key, where a nonce is used that was never given out.

        What was used while no keeper ran is taken for the operator's own.
        """
        expected, given = self._expected_nonce, self._outbox.next_nonce()
        if expected is None:
            self._used_before = chain_nonce
            if chain_nonce > given > 0:
                log.warning("wallet.used_elsewhere", nonce=chain_nonce, given=given, block=head.number)
        elif chain_nonce > max(expected, given):
            self._note_foreign(f"nonce {chain_nonce - 1} is used and was not given out", head)
        self._expected_nonce = max(chain_nonce, expected or 0)

    def _note_foreign(self, evidence: str, head: Head) -> None:
        log.error("wallet.foreign", wallet=self.address, why=evidence, block=head.number)
        self._outbox.note_foreign(evidence, at_s=head.timestamp_s)

    def _note_stranger(self, step: StepRecord, head: Head) -> None:
        """Take it that no transaction of ours used the nonce of a step; the next head looks once more.

        Where that was before this start, an operator may have done it by hand.
        """
        self._recheck_from = head.number
        if step.nonce < self._used_before:
            log.warning("wallet.used_elsewhere", nonce=step.nonce, step_id=step.step_id, block=head.number)
        else:
            self._note_foreign(f"nonce {step.nonce} of step {step.step_id} was used by another", head)

    def _write(
        self, step: StepRecord, outcome: Outcome | None, head: Head, said: Mapping[str, Aftermath]
    ) -> None:
        """Bring the journal to what the chain shows of one step, and of those that it carries."""
        if step.outcome is not None:
            self._outbox.unsettle(step.step_id, block=head.number, at_s=head.timestamp_s)
            self._last_sent.pop(step.step_id, None)
            log.warning("tx.unincluded", step_id=step.step_id, tx_hash=step.tx_hash, block=step.outcome.block)
        if outcome is not None:
            self._outbox.sent(step.step_id, block=head.number, at_s=head.timestamp_s)
            aftermath, *carried = (said[each.step_id] for each, _ in _acts(step, outcome))
            self._outbox.settle(
                step.step_id, outcome, at_s=head.timestamp_s, aftermath=aftermath, carried=carried
            )
            if outcome.kind is EventKind.DISPLACED and outcome.tx_hash is None:
                self._note_stranger(step, head)
            self._last_sent.pop(step.step_id, None)
            _, via = self._carriers.pop(step.step_id, (0, None))
            if via is not None and outcome.kind is not EventKind.DISPLACED:
                self._route.tallies[via].include(outcome.block - step.reserved_block)
            log.info(
                "tx.settled",
                step_id=step.step_id,
                tx_hash=step.tx_hash,
                outcome=outcome.kind,
                block=outcome.block,
            )

    async def _resend(self, head: Head) -> None:
        """Bid more where it is due; send the same bytes again where an outcome is overdue, or was undone."""
        live = [self._in_time(step) for step in self._still_valid(self._outbox.live_steps())]
        stuck = {} if self._params.dry_run else self._stuck(live, head)
        if stuck:
            await self._hear_fees(head)
        renewed = [
            self._rebid(step, stuck[step.step_id], head) if step.step_id in stuck else step for step in live
        ]
        await self._deliver(
            [
                each
                for each, step in zip(renewed, live, strict=True)
                if each is not step or self._is_due(step, head)
            ]
        )
        await self._fill_gaps()

    def _in_time(self, step: StepRecord) -> StepRecord:
        """Have a later bid never go out that is too late, or that nobody signs for as long as a bid is given.

        What is stuck is then bid for anew, at the fees of now.
        """
        bid, head = step.last, self._head
        if bid.signed_tx is not None or bid.kind is BidKind.FIRST:
            return step
        following, lasts = head.number + 1, self._params.patience.raise_after
        if bid.kind is BidKind.RAISE and step.valid_until_block < following:
            bound = f"valid until block {step.valid_until_block}"
            return self._drop(step, bid, Reason("send.validity", f"next block {following}", bound))
        if head.number - bid.block >= lasts:
            found = f"permitted at block {bid.block}, not signed at {head.number}"
            return self._drop(step, bid, Reason("send.unsigned", found, f"within {lasts} blocks"))
        return step

    async def _fill_gaps(self) -> None:
        """Have nonces used up that nobody holds, and that what is out above them waits for.

        What was never signed above one, with nothing out above it, is given up instead: whatever comes next
        fills that one.
        """
        if self._chain_nonce is None or self._params.dry_run:
            return
        head, live = self._head, self._outbox.live_steps()
        gaps = self._outbox.gaps(self._chain_nonce, block=head.number, at_s=head.timestamp_s)
        highest = max((step.nonce for step in live if step.signed_tx is not None), default=-1)
        lowest = next((nonce for nonce in gaps if nonce > highest), None)
        for step in live:
            if lowest is not None and step.nonce > lowest:
                reason = Reason("send.gap", f"nobody holds nonce {lowest} below {step.nonce}", "no gap below")
                self._abandon(step, reason)
        below = [nonce for nonce in gaps if nonce < highest]
        if not below and not any(step.fills for step in live):
            return
        await self._hear_fees(head)
        most_wei = self._params.fees.max_fee_cap_wei
        gas = self._gas(self._params.cancel_gas, 0)
        purse = Purse(self.fees(head), most_wei, self.balance_wei, gas, self.data_fee_wei)
        await self._filler.fill(below, head, self._chain_nonce, purse)

    def _is_due(self, step: StepRecord, head: Head) -> bool:
        """Tell whether a step's bytes go out at this head, to whoever has them or to who comes next."""
        sent = self._last_sent.get(step.step_id)
        if step.last.signed_tx is None:
            return True
        if sent is None or head.number - sent >= self._params.resend_after_blocks:
            return True
        carrier = self._carriers.get(step.step_id)
        if carrier is None or head.number == sent:
            return False
        return self._route.goes_on(carrier[0], head.number - step.reserved_block)

    def _stuck(self, live: Sequence[StepRecord], head: Head) -> dict[str, BidKind]:
        """Return which bid is due for which steps."""
        if self._chain_nonce is None:
            return {}
        out = [step for step in live if step.step_id in self._last_sent]
        found = ((step.step_id, due(step, head, self._chain_nonce, self._params.patience)) for step in out)
        return {step_id: kind for step_id, kind in found if kind is not None}

    def _rebid(self, step: StepRecord, kind: BidKind, head: Head) -> StepRecord:
        """Have another transaction permitted on the nonce of a step; return it as it then is.

        Where it would cost more than it may, or would not be included either, the step stays as it was.
        """
        params = self._params.fees
        wanted = choose_fees(head.base_fee_wei, params, self._market)
        most_wei = params.max_fee_cap_wei
        if kind is BidKind.RAISE:
            most_wei = min(most_wei, self._outbox.affordable_wei(step.step_id) or most_wei)
        fees = None
        if isinstance(wanted, Fees):
            fees = outbid(Fees.of(step.last.unsigned_tx), wanted, most_wei)
        told = {"step_id": step.step_id, "nonce": step.nonce, "bid": kind}
        if fees is None or fees.max_fee_wei < (head.base_fee_wei or 0):
            log.warning("tx.stuck", why=f"a bid that does would be more than {most_wei} wei", **told)
            return step
        tx = {**step.unsigned_tx, **fees.fields()}
        if kind is BidKind.CANCEL:
            gas = self._gas(self._params.cancel_gas, 0)
            tx |= {"to": self.address, "data": "0x", "value": 0, "gas": gas}
        granted = self._outbox.rebid(
            step.step_id,
            kind,
            tx,
            balance_wei=self.balance_wei,
            block=head.number,
            at_s=head.timestamp_s,
            data_fee_wei=self.data_fee_wei,
        )
        if isinstance(granted, Refuse):
            log.warning("tx.stuck", why=str(granted.reason), **told)
            return step
        log.warning("tx.outbid", max_fee_wei=fees.max_fee_wei, tip_wei=fees.priority_fee_wei, **told)
        return granted


def _out(step: StepRecord) -> Iterator[tuple[int, Signed]]:
    """Yield the newest bytes of a step that were signed, by nonce: its own, and what fills gaps below."""
    if (own := _last_signed(step)) is not None:
        yield step.nonce, own
    for fill in newest(step):
        if fill.signed_tx is not None and fill.tx_hash is not None:
            yield fill.nonce, Signed(fill.signed_tx, fill.tx_hash)


def _last_signed(step: StepRecord) -> Signed | None:
    """Return the newest bytes of a step that were signed."""
    sent = (step.signed_tx, step.tx_hash), *((each.signed_tx, each.tx_hash) for each in step.bids)
    found = [Signed(raw, tx_hash) for raw, tx_hash in sent if raw is not None and tx_hash is not None]
    return found[-1] if found else None


async def _caught(signing: Awaitable[Signed]) -> Signed | SignerFault:
    """Return the fault of a signer as a value, so that it does not hide what others signed."""
    try:
        return await signing
    except SignerFault as fault:
        return fault


def _acts(step: StepRecord, outcome: Outcome) -> list[tuple[StepRecord, Outcome]]:
    """Return a step and those that its transaction carries, each with how it ended."""
    return list(zip((step, *step.carries), (outcome, *outcome.carried), strict=True))


def _same(believed: Outcome | None, seen: Outcome | None) -> bool:
    """Compare two outcomes; a displacement by a stranger is the same one at whichever head it is noticed."""
    if believed is None or seen is None:
        return believed is seen
    if seen.kind is EventKind.DISPLACED and seen.tx_hash is None:
        return believed.kind is seen.kind and believed.gas_cost_wei == seen.gas_cost_wei
    return believed == seen
