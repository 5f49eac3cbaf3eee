"""Ranking models for recommender teams: from raw impression logs to a judged, served and batch-scoring model."""
