"""OpenAI's Batch files at both ends of a job: requests in, results out. Knows no Ray."""
