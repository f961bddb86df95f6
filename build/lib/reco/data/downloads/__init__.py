"""Fetch what experiments start from, verify it, and unpack the files that are wanted.

`debian` has the packages of photographs, `published` the datasets and weights of the paper at the
addresses in config/downloads.yaml, `gated` those that must be signed for. Nothing is used before
its length and digest were checked (`transfer`), nor unpacked unseen (`archives`).
"""
