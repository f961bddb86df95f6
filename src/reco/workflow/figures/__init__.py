"""Figures: archives, predictions, curves; drawn from masks and metrics, without a network.

Functions `*_figure` draw data that they are given; `read_*` find the data of an experiment. Figures
are made without pyplot, so nothing global changes, and without dates, so equal data make equal
files.
"""
