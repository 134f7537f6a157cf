"""Screens: short copies of rows whose products bound every logit from above, so that few rows need to be looked at.

A :class:`.screen.Screen` has kinds (principal, codes, stored), of which :mod:`.kinds` takes the one that pays. What is
known of the queries (:mod:`.probe`, :mod:`.neighbours`, :mod:`.carry`) narrows the bounds (:mod:`.upper`); a
:mod:`.shortlist` takes from them what must be looked at, and :mod:`.reach` measures from which time on that pays.
:mod:`.proposal` and :mod:`.sampled` draw from a screen what a budget cannot look at.
"""
