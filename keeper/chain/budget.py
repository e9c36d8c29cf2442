"""How many requests one endpoint may be sent in a second, so that its provider need not say no."""

from __future__ import annotations

import time
from collections import deque

from aiolimiter import AsyncLimiter


class Budget:
    """A leaky bucket of one second; each call of a batch counts, as providers count. None is no bound."""

    def __init__(self, requests_s: float | None = None) -> None:
        self.spent = 0
        """Calls sent since the start."""
        self._sent: deque[tuple[float, int]] = deque()
        self._limiter = None if requests_s is None else AsyncLimiter(requests_s, 1)

    def has_room(self, calls: int = 1) -> bool:
        """Tell whether so many calls would go out at once; more than fit into a second never do."""
        return self._limiter is None or self._limiter.has_capacity(min(calls, self._limiter.max_rate))

    async def spend(self, calls: int) -> None:
        """Wait until so many calls may go out; a batch larger than the bucket waits for it several times."""
        left: float = calls
        while self._limiter is not None and left > 0:
            part = min(left, self._limiter.max_rate)
            await self._limiter.acquire(part)
            left -= part
        self.spent += calls
        self._sent.append((time.monotonic(), calls))
        self._forget()

    @property
    def used(self) -> float:
        """The share that was spent in the last second; 0 without a bound."""
        self._forget()
        return (
            0.0 if self._limiter is None else sum(calls for _, calls in self._sent) / self._limiter.max_rate
        )

    def _forget(self) -> None:
        while self._sent and self._sent[0][0] <= time.monotonic() - 1:
            self._sent.popleft()
