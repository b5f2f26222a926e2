"""Which broker leads, and how another takes over."""
