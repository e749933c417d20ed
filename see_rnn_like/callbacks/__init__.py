"""Keras callbacks: thin, they schedule and forward only."""
