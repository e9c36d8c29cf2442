"""Errors by blame. A refusal is a value (``domain.Refuse``), never an exception."""


class KeeperError(Exception):
    """Anything the keeper raises on purpose; its text is written for the operator."""


class InvariantBroken(KeeperError):
    """Our own fault: a state that must not exist. The keeper stops."""


class ChainFault(KeeperError):
    """The node or the chain failed us: unreachable, contradictory, incomplete. Reads may be tried again."""


class ConfigError(KeeperError):
    """The configuration cannot be used; found before the first act."""


class BadInput(KeeperError, ValueError):
    """A number that no formula can be asked about; says which, what was expected and what was found."""


class SignerFault(KeeperError):
    """Whoever holds the wallet's key gave no signature of it: silent, or wrong. It may be asked again."""


class Deposed(KeeperError):
    """Another keeper leads, or nobody can tell who does: nothing may be written, and nothing sent."""

    def __init__(self, why: str) -> None:
        super().__init__(f"standby.deposed: {why}")
        self.why = why
