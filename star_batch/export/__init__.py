"""Finished rows in the forms that others read: JSON Lines, CSV, WebDataset, a Hugging Face dataset.

What is written is derived from the rows that count, and can be made again at any time. Knows no Ray and no engine.
"""
