"""Photographs: words in, masks out, in one process; for people who have no benchmark."""
