"""Why: what the keeper knew of an account, which rule decided, and what would change the answer.

From the journal, and from its tape: read only, beside a keeper that runs or after it has ended.
"""
