"""Lending, in words that its protocols share, and what any of them is closed with: tokens, routes, loans."""
