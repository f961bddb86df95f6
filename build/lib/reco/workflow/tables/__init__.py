"""Tables that people read, a module each: what is in it, and its command with title and notes.

A table is a DataFrame of three kinds of columns: text, bool (a tick or nothing) and numbers, which
are percent; what does not apply is nan.
"""
