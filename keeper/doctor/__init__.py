"""What a keeper needs, looked at before it runs: each finding says how to mend it."""
