"""What all tests share."""

from hypothesis import settings

# How long an example takes tells how busy the machine is, not whether the code is right: benchmarks measure.
settings.register_profile("keeper", deadline=None)
settings.load_profile("keeper")
