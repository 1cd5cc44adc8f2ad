"""Runnable programs that use the mesh from outside."""
