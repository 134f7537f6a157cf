"""Screens: short copies of rows whose products bound every logit from above, so that few rows need to be rescored.

In `bounds`, a :class:`.screen.Screen` and what is known of the queries, which narrows their coefficients
(:mod:`.query_bounds`, :mod:`.shared_products`) and so the :mod:`.upper_bounds`; :mod:`.nearest` bounds distances.
The `kinds` are :mod:`.pca`, :mod:`.pca8`, :mod:`.int8` and :mod:`.exact8`. In `searches`, a :mod:`.cascade` over the
levels of a screen finds the :mod:`.shortlist` of rows that matter, in :mod:`.one_call` on a CPU, or in
:mod:`.card_call`; :mod:`.importance` draws from a screen what a budget cannot rescore. The `choice` falls on the kind
that saves most (:mod:`.choose`), and is measured, also from which SNR on.
"""

from ..common.search import Mass
from .bounds.costs import SearchCosts
from .bounds.nearest import DistanceVectors, extended_distances, nearest_distances, source_log_omitted
from .bounds.query_bounds import BOUND_FAILURE, Knowledge, SideInformation, Source
from .bounds.screen import Screen
from .bounds.shared_products import SharedProducts
from .bounds.upper_bounds import UpperLogits
from .choice.choose import SCREEN_KINDS, TRIAL_MASS, best_screen, build_kind, refusal, with_thresholds
from .kinds.exact8 import StoredScreen
from .kinds.int8 import CodeScreen
from .kinds.pca import PrincipalScreen, default_widths
from .kinds.pca8 import LeadingCodeScreen
from .searches.card_call import asks_nothing, entries_on_card
from .searches.cascade import entry_levels, screened
from .searches.importance import Sampled, sampled_state
from .searches.shortlist import Allowance, FixedAllowance, Shortlist, common_term, strongest

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
    "common_term",
    "default_widths",
    "entries_on_card",
    "entry_levels",
    "extended_distances",
    "nearest_distances",
    "refusal",
    "sampled_state",
    "screened",
    "source_log_omitted",
    "strongest",
    "with_thresholds",
]
