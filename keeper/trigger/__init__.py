"""The fast trigger: score every account at the fast price, and suspect all that cannot be cleared."""

from keeper.trigger.engine import engine
from keeper.trigger.scores import Scores, score, suspects
from keeper.trigger.watch import Found, Trigger

__all__ = ["Found", "Scores", "Trigger", "engine", "score", "suspects"]
