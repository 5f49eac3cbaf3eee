"""Serving: export, batch scoring, roll-out, clients and drift of ranking models."""
