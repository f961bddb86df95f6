"""Figures, a module each: what draws it from data, what reads the data, and its command.

`archives_figure` and its kin draw data that they are given, without a network and without a file,
and return a matplotlib `Figure`: a notebook can show it, change it and write it.
"""
