"""The settings of the training demonstration, which the command line reads without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ...base.errors import invalid


@dataclass(frozen=True)
class TrainSettings:
    """How long and how precisely the demonstration trains, and how large its networks are.

    steps: of training, at least 1. batch: queries of a step, at least 1. width: hidden units of a layer, at least 1.
    references: samples M over which EFM averages, at least 1. bins: of t, for the variances, at least 1.
    draws: batches in each bin from which gradient variances are estimated, at least 2.
    seed: of the networks, the batches, and the samples that are held out.

    Raises InputError for a number below its least value.
    """

    steps: int = 300
    batch: int = 64
    width: int = 512
    references: int = 128
    bins: int = 8
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("width", 1), ("references", 1), ("bins", 1), ("draws", 2)):
            if getattr(self, name) < least:
                raise invalid(name, f"must be at least {least}", getattr(self, name), "leave it out for the default")
