"""Merchants, their people and what these may do: frozen values and pure functions. Only here is
decided what is allowed.
"""
