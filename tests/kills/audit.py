"""Hold a journal to what the node was handed and the chain has included, and say what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from keeper.domain import EventKind
from keeper.errors import ConfigError
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.ports import LIVE, StepRecord, StepState
from keeper.units import AccountKey
from tests.kills.world import Handed, Ledger, cost_wei


def after_death(journal: Path | Shared, ledger: Ledger, limits: Limits) -> list[str]:
    """Return what is wrong while no keeper lives."""
    try:
        with closing(JournalReader(journal)) as reader:
            steps, broken = _steps(reader), reader.verify()
    except ConfigError as error:
        # A first life may end before there is a journal; only then nothing may be out.
        return [f"{len(ledger.handed)} transactions are out, and {error}"] if ledger.handed else []
    return [*broken, *_unknown(ledger, steps), *_twice(ledger, steps), *_beyond(ledger, limits)]


def at_the_end(journal: Path | Shared, ledger: Ledger, limits: Limits) -> list[str]:
    """Return what is wrong once all is over: nothing may be under way any more."""
    with closing(JournalReader(journal)) as reader:
        steps = _steps(reader)
    return [
        *after_death(journal, ledger, limits),
        *_forgotten(ledger, steps),
        *_told_otherwise(ledger, steps),
    ]


def _steps(reader: JournalReader) -> list[StepRecord]:
    cases = (case for account in reader.accounts_with_cases() for case in reader.cases_of(account, None))
    return [step for case in cases for step in case.steps]


def _unknown(ledger: Ledger, steps: list[StepRecord]) -> Iterator[str]:
    """Yield what a node was handed before its bytes were in the journal, or that was given up."""
    known = {tx_hash: step for step in steps for tx_hash in step.hashes if not step.place}
    for tx_hash, each in ledger.handed.items():
        step = known.get(tx_hash)
        if step is None:
            yield f"{_named(each)} was handed over, and the journal has no such bytes"
        elif step.nonce != each.tx.nonce or each.accounts not in {_accounts(step, steps), ()}:
            yield f"{_named(each)} is step {step.step_id} with nonce {step.nonce} in the journal"
        elif step.state is StepState.ABANDONED and tx_hash in {*ledger.pending, *ledger.receipts}:
            yield f"{_named(each)} is with the node, and step {step.step_id} was given up"


def _twice(ledger: Ledger, steps: list[StepRecord]) -> Iterator[str]:
    """Yield steps under several nonces, nonces under several steps, and accounts with two acts out."""
    known = {tx_hash: step for step in steps for tx_hash in step.hashes if not step.place}
    nonces, owners = defaultdict[str, set[int]](set), defaultdict[int, set[str]](set)
    for tx_hash, each in ledger.handed.items():
        step_id = known[tx_hash].step_id if tx_hash in known else tx_hash
        nonces[step_id].add(each.tx.nonce)
        owners[each.tx.nonce].add(step_id)
    yield from (f"step {each} was sent under {sorted(of)}" for each, of in nonces.items() if len(of) > 1)
    yield from (f"nonce {each} was sent for {sorted(of)}" for each, of in owners.items() if len(of) > 1)
    out = defaultdict[bytes, list[str]](list)
    for tx_hash in ledger.pending:
        each = ledger.handed[tx_hash]
        # What a reorg put back may meet what has followed it.
        if tx_hash not in ledger.unincluded:
            # A cancel names no account: it is about that of its step.
            accounts = each.accounts or (_accounts(known[tx_hash], steps) if tx_hash in known else ())
            for account in accounts:
                out[account].append(_named(each))
    yield from (f"out at the same time: {', '.join(of)}" for of in out.values() if len(of) > 1)


def _beyond(ledger: Ledger, limits: Limits) -> Iterator[str]:
    """Yield the limits that were not kept, as the chain shows it. A story is shorter than an hour."""
    if ledger.most_exposed_wei > limits.spend_day_wei:
        yield f"{ledger.most_exposed_wei} wei were spent or out at once, of {limits.spend_day_wei}"
    attempts = Counter(
        account
        for account, _ in {
            (account, each.tx.nonce) for each in ledger.handed.values() for account in each.accounts
        }
    )
    for account, count in attempts.items():
        if count > limits.attempts_hour:
            yield f"{count} attempts on {account.hex()[:4]}, of {limits.attempts_hour}"


def _forgotten(ledger: Ledger, steps: list[StepRecord]) -> Iterator[str]:
    yield from (f"step {step.step_id} is {step.state} for ever" for step in steps if step.state in LIVE)
    yield from (f"{_named(ledger.handed[each])} is out for ever" for each in ledger.pending)


def _told_otherwise(ledger: Ledger, steps: list[StepRecord]) -> Iterator[str]:
    """Yield steps that ended on chain otherwise than the journal tells."""
    for step in steps:
        told = step.outcome and (step.outcome.kind, step.outcome.block_hash, step.outcome.gas_cost_wei)
        batch = _batch(step, steps)
        included = [tx_hash for tx_hash in batch[0].hashes if tx_hash in ledger.receipts]
        for tx_hash in included:
            receipt = ledger.receipts[tx_hash]
            kind = EventKind.REVERTED if step.place in ledger.lost[tx_hash] else EventKind.INCLUDED
            kind = kind if ledger.handed[tx_hash].data else EventKind.DISPLACED
            share_wei, rest_wei = divmod(cost_wei(receipt), len(batch))
            share_wei += 0 if step.place else rest_wei
            if told != (kind, receipt["blockHash"], share_wei):
                yield f"step {step.step_id} ended as {kind} in {receipt['blockHash']}, and was told as {told}"
        if told is not None and not included:
            yield f"step {step.step_id} was told as {told}, and the chain has nothing of it"


def _batch(step: StepRecord, steps: list[StepRecord]) -> list[StepRecord]:
    """Return the steps that go in one transaction with a step, in their order; it may be the only one."""
    if step.tx_hash is None:
        return [step]
    return sorted((each for each in steps if each.tx_hash == step.tx_hash), key=lambda each: each.place)


def _accounts(step: StepRecord, steps: list[StepRecord]) -> tuple[AccountKey, ...]:
    return tuple(each.account for each in _batch(step, steps))


def _named(each: Handed) -> str:
    accounts = ", ".join(account.hex()[:4] for account in each.accounts)
    return f"{each.name} of {accounts} with nonce {each.tx.nonce}, of block {each.at.number},"
