"""The workflow: a module per stage. Each reads files, calls the method, writes files."""
