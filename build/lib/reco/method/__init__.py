"""The method: the paper, and the newer recipe, as functions of arrays. No path is read here.

In order: prompts, retrieve, cosegment and references (or bank), segment, crf and refine, metrics.
"""
