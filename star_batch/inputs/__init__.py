"""What a row is: which files there are, their columns, and where images come from. Knows no Ray and no engine."""
