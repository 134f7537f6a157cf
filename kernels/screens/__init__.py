"""Screens: short copies of rows whose products bound every logit from above, so that few rows need to be looked at.

A :class:`.screen.Screen` has kinds (principal, codes, stored), of which :mod:`.kinds` takes the one that pays. What is
known of the queries (:mod:`.probe`, :mod:`.neighbours`, :mod:`.carry`) narrows the bounds (:mod:`.upper`); a
:mod:`.shortlist` takes from them what must be looked at, and :mod:`.reach` measures from which time on that pays.
:mod:`.proposal` and :mod:`.sampled` draw from a screen what a budget cannot look at.
"""

from .calibration import TRIAL_MASS, measured
from .choose import SCREEN_KINDS, best_screen, build_kind, refusal
from .exact8 import StoredScreen
from .importance import Sampled, sampled_state
from .int8 import CodeScreen
from .nearest import DistanceVectors, extended_distances, nearest_distances, source_log_omitted
from .pca import PrincipalScreen, default_widths
from .query_bounds import BOUND_FAILURE, Knowledge, Source
from .screen import Screen
from .shared_products import SharedProducts
from .shortlist import Allowance, Shortlist, below_thresholds, offset, screened, strongest
from .upper_bounds import UpperLogits

__all__ = [
    "BOUND_FAILURE",
    "SCREEN_KINDS",
    "TRIAL_MASS",
    "Allowance",
    "CodeScreen",
    "DistanceVectors",
    "Knowledge",
    "PrincipalScreen",
    "Sampled",
    "Screen",
    "SharedProducts",
    "Shortlist",
    "Source",
    "StoredScreen",
    "UpperLogits",
    "below_thresholds",
    "best_screen",
    "build_kind",
    "default_widths",
    "extended_distances",
    "measured",
    "nearest_distances",
    "offset",
    "refusal",
    "sampled_state",
    "screened",
    "source_log_omitted",
    "strongest",
]
