"""The kinds of numbers that fields of the configuration and flags of the commands have."""

from typing import Annotated

from fastass.models.number_range import Range

Count = Annotated[int, Range(1)]
Images = Annotated[int, Range(1, 1000000)]
Steps = Annotated[int, Range(0)]
Factor = Annotated[float, Range(0, 10**6)]
Below1 = Annotated[float, Range(0, 1, open_high=True)]
Rate = Annotated[float, Range(0, 1000, open_low=True)]
ScaleFactor = Annotated[float, Range(0.05, 20)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
# The global discriminator halves a map five times, and the kernels' positions end at 2^14.
Side = Annotated[int, Range(32, 16384)]
Size = tuple[Side, Side]
