"""The model that trains, and how it validates."""
