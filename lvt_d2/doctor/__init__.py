"""``python -m lvt_d2.doctor``: whether training would work here, and what mends it if not.

Whatever may be broken is imported in a process of its own (`isolation`), by probes that return
rows (`rows`); nothing of this package imports more than the standard library before that.
"""
