"""Starting processes on Windows, where broody is not yet."""

__all__ = []

raise ImportError("broody is for Linux")
