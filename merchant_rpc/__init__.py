"""The merchant service: who may act for a merchant."""
