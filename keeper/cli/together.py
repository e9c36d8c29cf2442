"""What the deployments that one process keeps have in common, and what keeps them apart."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import structlog

from keeper.alerts import Teller
from keeper.chain.pool import Pool
from keeper.config import Config, load
from keeper.deployments import in_common
from keeper.errors import ConfigError, KeeperError
from keeper.execute.keys import LocalSigner
from keeper.execute.signers import SignerParams
from keeper.journal.store import StoredJournal
from keeper.journal.wallet import Wallet
from keeper.ports import Market, Notice, Switch
from keeper.state.part import WHOLE

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Board:
    """What signals act on, of one deployment."""

    file: Path
    """Its configuration."""
    journal: StoredJournal
    teller: Teller

    def throw(self, number: signal.Signals, *, on: bool) -> None:
        """Halt, or resume."""
        try:
            self.journal.throw(Switch.HALT, "", on=on, who=number.name)
        except KeeperError as error:
            log.warning("halt.not_written", signal=number.name, why=str(error))

    def reload(self) -> None:
        """Read the limits of the file anew; one that cannot be used changes nothing."""
        try:
            found = load(self.file).limits_for_guard()
            changes = self.journal.limits.changes(found)
            if changes:
                self.journal.reload(found, signal.SIGHUP.name, changes)
        except KeeperError as error:
            log.warning("limits.not_reloaded", why=str(error))
            self.teller.tell(Notice("limits", "not reloaded", f"the limits stay as they are: {error}"))
            return
        log.warning("limits.reloaded", changes=changes)
        self.teller.tell(
            Notice("limits", "reloaded", f"the limits were read anew: {changes}", recovered=True)
        )


def on_switches(boards: Sequence[Board]) -> None:
    """Halt at SIGUSR1, resume at SIGUSR2, and read limits anew at SIGHUP."""

    def each(act: Callable[[Board], None]) -> None:
        for board in boards:
            act(board)

    loop = asyncio.get_running_loop()
    for number, on in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
        loop.add_signal_handler(number, each, partial(Board.throw, number=number, on=on))
    loop.add_signal_handler(signal.SIGHUP, each, Board.reload)


@dataclass(frozen=True, slots=True)
class Berth:
    """What the deployments that one process keeps have in common, or apart."""

    rpc: Pool
    wallets: defaultdict[str, Wallet]
    """By address: journals of one wallet are one door."""
    keys: Mapping[SignerParams, LocalSigner | None]
    """Those of this process."""
    signing: Sequence[SignerParams]
    """Of each deployment, who signs for it."""
    boards: list[Board] = field(default_factory=list)
    kept: list[tuple[Path, Config, frozenset[str]]] = field(default_factory=list)
    """By which contracts each is known on chain."""

    @property
    def of(self) -> int:
        """How many deployments there are."""
        return len(self.signing)

    def is_shared(self, wallet: str) -> bool:
        """Tell whether several deployments have this wallet."""
        keys = ((self.keys[each], each.keys.address) for each in self.signing)
        return sum(wallet == (key.address if key else address) for key, address in keys) > 1


def expect_apart(configs: Mapping[Path, Config], snapshot: Path | None) -> None:
    """Raise ConfigError where deployments cannot be kept by one process."""
    (first, one), *others = configs.items()
    if snapshot is not None and (others or one.deployment.accounts != WHOLE):
        raise ConfigError("--snapshot is the book of one whole deployment: give it with one --config")
    for path, config in others:
        if config.chain != one.chain:
            raise ConfigError(f"{path}: [chain] is not that of {first}, and one process keeps one chain")
        if config.journal.url != one.journal.url:
            raise ConfigError(f"{path}: journal.url is not that of {first}, and one wallet has one door")
    for (path, config), (before, other) in combinations([*configs.items()][::-1], 2):
        if config.deployment.address == other.deployment.address:
            _expect_none_twice(path, config, before, other)
    for name, of in APART.items():
        taken: dict[object, Path] = {}
        for path, config in configs.items():
            value = of(config)
            if value is not None and taken.setdefault(value, path) is not path:
                raise ConfigError(f"{path}: {name} is that of {taken[value]}: {value}")


def _expect_none_twice(path: Path, config: Config, before: Path, other: Config) -> None:
    """Raise ConfigError where two wallets of one deployment could act on the same account."""
    if shared := in_common(config.deployment, other.deployment):
        mend = "name other markets, or another part"
        raise ConfigError(f"{path}: [deployment] keeps what {before} does, {shared}; {mend}")


def expect_only_keeper(berth: Berth, path: Path, config: Config, market: Market[Any, Any]) -> None:
    """Raise ConfigError where one deployment goes by two addresses, such as those of two readers of it."""
    for before, other, addresses in berth.kept:
        if not addresses.isdisjoint(market.addresses):
            _expect_none_twice(path, config, before, other)
    berth.kept.append((path, config, frozenset(market.addresses)))


APART: Mapping[str, Callable[[Config], object]] = {
    "journal.path": lambda config: config.journal.path,
    "journal.schema_name": lambda config: config.journal.schema_name if config.journal.url else None,
    "mirror.snapshot": lambda config: config.mirror.snapshot,
    "health.port": lambda config: config.health.port or None,
}
"""What each deployment of a process has to itself; of port 0 everybody gets another."""
