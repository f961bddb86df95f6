"""Commands of the workflow: a module per rule file, which imports what it needs when it runs."""
