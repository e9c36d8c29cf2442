"""How each venue is listened to: pure codecs of its documented messages, which know nothing of each other."""

from collections.abc import Mapping

from keeper.feeds.venues import binance, coinbase, kraken, okx, pyth
from keeper.feeds.venues.words import Venue

VENUES: Mapping[str, Venue] = {
    venue.name: venue for venue in (binance.VENUE, coinbase.VENUE, kraken.VENUE, okx.VENUE, pyth.VENUE)
}

__all__ = ["VENUES", "Venue"]
