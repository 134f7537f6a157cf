"""Names that users choose from, kept without imports so that the command line can list them without torch."""

from __future__ import annotations

# the keys of oracle_engine.paths.PATHS
PATH_NAMES = ("rectified_flow", "gvp", "vp", "linear_vp", "polynomial", "edm")
# the keys of oracle_engine.samplers.METHODS
METHOD_NAMES = ("euler", "heun", "ddim")
# the keys of oracle_engine.data.builtin.BUILTINS
BUILTIN_NAMES = ("digits", "patches", "fashion-mnist", "mnist", "cifar10")
