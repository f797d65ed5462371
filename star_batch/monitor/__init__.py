"""What a job counts while it runs, and who is told. Knows no Ray and no storage."""
