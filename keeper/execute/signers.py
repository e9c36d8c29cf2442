"""Which signer a configuration means, opened: a key of this process, or whoever holds it elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog

from keeper.errors import ConfigError, SignerFault
from keeper.execute import kms, web3signer
from keeper.execute.keys import KEY_VARIABLE, KeyParams, LocalSigner, load_signer
from keeper.execute.signer import Holder, RemoteSigner, Signer

log = structlog.get_logger()

CHECK_S = 30.0
"""How often a signer elsewhere is asked whether it is there, so that it is missed before it is needed."""

Elsewhere: TypeAlias = web3signer.Params | kms.Params


@dataclass(frozen=True, slots=True)
class SignerParams:
    """Whose transactions are signed, and where the key is."""

    keys: KeyParams = field(default_factory=KeyParams)
    elsewhere: Elsewhere | None = None
    """None: the key is in this process."""

    @property
    def is_in_environment(self) -> bool:
        """Whether the key lies open in the environment: for development."""
        return self.elsewhere is None and self.keys.keystore is None


def unlock(params: SignerParams) -> LocalSigner | None:
    """Load the key of this process, before there is a loop: a passphrase may have to be typed.

    None where the key is elsewhere. Raises ConfigError.
    """
    if params.elsewhere is None:
        return load_signer(params.keys)
    if params.keys.keystore is not None or os.environ.get(KEY_VARIABLE):
        raise ConfigError(f"both [signer] and a keystore or {KEY_VARIABLE} are set: which key is meant?")
    return None


@asynccontextmanager
async def open_signer(params: SignerParams, local: LocalSigner | None) -> AsyncIterator[Signer]:
    """Open the signer, and look now and then whether it is there; what is unlocked already is used as it is.

    A signer elsewhere may be away at the start: what is in flight is followed without it.
    """
    if local is not None:
        yield local
        return
    async with reached(params) as signer:
        watching = asyncio.create_task(_watch(signer))
        try:
            yield signer
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


@asynccontextmanager
async def reached(params: SignerParams) -> AsyncIterator[RemoteSigner]:
    """Keep connections to a signer elsewhere; raise ConfigError where nobody says whose wallet it is.

    The address is not taken from the signer, which could give the keeper another wallet that way.
    """
    assert params.elsewhere is not None
    async with _holding(params.elsewhere) as holder:
        address, timeout_s = params.keys.address, params.elsewhere.timeout_s
        if address is None:
            try:
                async with asyncio.timeout(timeout_s):
                    found = ", ".join(sorted(await holder.addresses())) or "nobody"
            except (SignerFault, TimeoutError) as fault:
                found = f"unknown: {str(fault) or 'no answer'}"
            raise ConfigError(f"wallet.address is not set; {holder.name} signs for {found}")
        yield RemoteSigner(holder, address, timeout_s=timeout_s)


def _holding(elsewhere: Elsewhere) -> AbstractAsyncContextManager[Holder]:
    if isinstance(elsewhere, web3signer.Params):
        return web3signer.web3signer(elsewhere)
    return kms.aws_kms(elsewhere)


async def _watch(signer: RemoteSigner) -> None:
    """Ask whether the signer is there, and say when that changes; who was at fault is back when it signs."""
    was = None
    while True:
        with suppress(SignerFault):
            await (signer.check() if signer.fault is None else signer.prove())
        if signer.fault is not None and was is None:
            log.warning("signer.lost", wallet=signer.address, why=signer.fault)
        elif signer.fault is None and was is not None:
            log.info("signer.back", wallet=signer.address)
        was = signer.fault
        await asyncio.sleep(CHECK_S)
