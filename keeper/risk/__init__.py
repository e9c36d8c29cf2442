"""Protocol-neutral mathematics of risk: pure functions of numbers, no I/O."""
