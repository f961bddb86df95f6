"""Data: images, tables and masks as they lie on disk, the store, and where they come from."""
