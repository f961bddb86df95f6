"""Specialists: small segmenters of one concept that ReCo teaches, and that need no index after.

The word is learned from the index as ever, and ReCo's masks of its archive are what a DeepLabv3+
learns from, with two changes that measurements speak for (docs/specialist.md). Images of the index
that are unlike the word are shown to it as background alone, for else it would meet little that it
must not take for the concept. And of each mask, which is rather too large, the less salient half is
left open. What is trained is one folder that can be carried elsewhere.
"""
