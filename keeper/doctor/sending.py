"""How transactions are sent, held against what is known of the chain."""

from __future__ import annotations

from collections.abc import Iterator

from keeper.config import Config
from keeper.config.sending import Send
from keeper.doctor.finding import Finding, Mark
from keeper.errors import ConfigError
from keeper.execute.chains import KNOWN, rules_of
from keeper.execute.keys import load_relay_key
from keeper.execute.transports import Via


def look_at_sending(config: Config, wallet: str | None) -> Iterator[Finding]:
    """Yield what the settings ask for that the chain does not have, or that buys nothing there."""
    chain_id, send = config.chain.chain_id, config.send
    rules, is_known = rules_of(chain_id), chain_id in KNOWN
    relayed = [via for via in send.via if via is not Via.PUBLIC]
    missing = [via for via in relayed if via not in rules.relays]
    if missing:
        found = f"no relay of {rules.name} is known to take {', '.join(missing)}"
        mend = "leave it out of send.via, or see to it that yours does"
        yield Finding("sending", Mark.BAD if is_known else Mark.WARN, found, mend)
    elif is_known:
        found = f"{rules.name}: {rules.pool}; a transaction pays {rules.data_fee}"
        yield Finding("sending", Mark.OK, f"{found}; a block is final after {rules.final_blocks}")
    else:
        found = (
            f"nothing is known of sending on chain {chain_id}: taken for one like Ethereum, without relays"
        )
        yield Finding("sending", Mark.OK, found)
    if relayed:
        yield _look_at_relay_key(wallet or "")
    yield from _look_at_fallback(send)
    if not rules.tip_orders and config.limits.priority_fee_gwei > 0:
        found = f"a tip of {config.limits.priority_fee_gwei} gwei buys nothing on {rules.name}"
        yield Finding("tip", Mark.WARN, found, "set limits.priority_fee_gwei to 0")
    ours_s = config.chain.block_time_s
    if is_known and ours_s != rules.block_time_s:
        found = f"chain.block_time_s is {ours_s}, blocks of {rules.name} take {rules.block_s:g} s"
        yield Finding("block time", Mark.WARN, found, "leave chain.block_time_s out")
    if is_known and config.chain.l1_fee != rules.l1_fee:
        paid = f"a transaction on {rules.name} pays {rules.data_fee}"
        found = f'chain.l1_fee is "{config.chain.l1_fee}", and {paid}'
        yield Finding("fee of data", Mark.WARN, found, "leave chain.l1_fee out")


def _look_at_fallback(send: Send) -> Iterator[Finding]:
    """Hold against each other when a transaction becomes public, and when it is replaced."""
    if Via.PUBLIC not in send.via:
        found = "what the relay does not take reaches nobody: no transaction ever becomes public"
        yield Finding("fallback", Mark.WARN, found, "end send.via with public")
        return
    private_blocks = send.private_blocks * send.via.index(Via.PUBLIC)
    if private_blocks >= send.raise_after_blocks:
        found = (
            f"a transaction is public {private_blocks} blocks after its permit, and outbid after"
            f" {send.raise_after_blocks}: its bid rises before anybody but the relay could take it"
        )
        mend = f"set send.raise_after_blocks to {private_blocks + 1}, or send.private_blocks lower"
        yield Finding("fallback", Mark.WARN, found, mend)


def _look_at_relay_key(wallet: str) -> Finding:
    try:
        load_relay_key(wallet)
    except ConfigError as error:
        return Finding("relay key", Mark.BAD, str(error), "set KEEPER_RELAY_KEY")
    return Finding("relay key", Mark.OK, "signs requests")
