"""Screens: short copies of rows whose products bound every logit from above, so that few rows need to be rescored.

A :class:`.screen.Screen` has kinds (:mod:`.pca`, :mod:`.pca8`, :mod:`.int8`, :mod:`.exact8`), of which :mod:`.choose`
takes the one that saves most, and measures from which SNR on. What is known of the queries narrows their coefficients
(:mod:`.query_bounds`, :mod:`.shared_products`) and so the :mod:`.upper_bounds`; a :mod:`.cascade` over the levels of a
screen finds the :mod:`.shortlist` of rows that matter, in :mod:`.one_call` on a CPU, or in :mod:`.card_call`.
:mod:`.nearest` bounds distances, and :mod:`.importance` draws from a screen what a budget cannot rescore.
"""

from ..common.search import Mass
from .card_call import asks_nothing, entries_on_card
from .cascade import entry_levels, screened
from .choose import SCREEN_KINDS, TRIAL_MASS, best_screen, build_kind, refusal, with_thresholds
from .costs import SearchCosts
from .exact8 import StoredScreen
from .importance import Sampled, sampled_state
from .int8 import CodeScreen
from .nearest import DistanceVectors, extended_distances, nearest_distances, source_log_omitted
from .pca import PrincipalScreen, default_widths
from .pca8 import LeadingCodeScreen
from .query_bounds import BOUND_FAILURE, Knowledge, SideInformation, Source
from .screen import Screen
from .shared_products import SharedProducts
from .shortlist import Allowance, FixedAllowance, Shortlist, query_term, strongest
from .upper_bounds import UpperLogits

__all__ = [
    "BOUND_FAILURE",
    "SCREEN_KINDS",
    "TRIAL_MASS",
    "Allowance",
    "CodeScreen",
    "DistanceVectors",
    "FixedAllowance",
    "Knowledge",
    "LeadingCodeScreen",
    "Mass",
    "PrincipalScreen",
    "Sampled",
    "Screen",
    "SearchCosts",
    "SharedProducts",
    "Shortlist",
    "SideInformation",
    "Source",
    "StoredScreen",
    "UpperLogits",
    "asks_nothing",
    "best_screen",
    "build_kind",
    "default_widths",
    "entries_on_card",
    "entry_levels",
    "extended_distances",
    "nearest_distances",
    "query_term",
    "refusal",
    "sampled_state",
    "screened",
    "source_log_omitted",
    "strongest",
    "with_thresholds",
]
