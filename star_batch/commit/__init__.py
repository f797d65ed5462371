"""Exactly once: parts, markers, snapshots, the lease, and the end of a job. Knows no Ray and no engine."""
