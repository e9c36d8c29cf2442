"""The loop: what a new head and a tick of prices lead to, and in which order."""

from keeper.pipeline.alarms import Params as AlarmParams
from keeper.pipeline.loop import Pipeline
from keeper.pipeline.mirror import SETTLED, UPGRADED, Shelf
from keeper.pipeline.params import PAGE, Params

__all__ = ["PAGE", "SETTLED", "UPGRADED", "AlarmParams", "Params", "Pipeline", "Shelf"]
