"""The bench measures: engines side by side with transformers' own `generate`, and with what the device could do.

Knows no Ray and no job, but for `scale`, which runs the real pipeline with engines that only sleep.
"""
