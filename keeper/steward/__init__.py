"""The steward: what options are worth and which margins underlyings ask for, signed by a quorum and posted.

``arrays`` posts risk arrays, which speak of an option at a price and are out of date in minutes; ``margins``
changes maintenance and initial margin, in ramps of a day or longer.
"""
