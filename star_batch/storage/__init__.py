"""Storage keeps: files and what may be read of them. Knows no row and no Ray."""
