"""Notices to people, by whatever messengers the operator names: bounded, each once, never in the way."""

from keeper.alerts.notices import Params, Sent
from keeper.alerts.teller import Messenger, Teller, load_urls, open_messengers

__all__ = ["Messenger", "Params", "Sent", "Teller", "load_urls", "open_messengers"]
