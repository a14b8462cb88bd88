"""Damaged and hostile inputs, kills and odd clients: what gets through, and how to have it again."""
