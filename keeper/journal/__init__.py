"""The case history in SQLite: what was seen, decided and sent, and the one door to the wallet.

``store`` writes, ``guard`` grants permits inside the store's transactions, ``reader`` only reads and may
live in another process, ``rows`` holds the tables and the one statement that moves a case.
"""
