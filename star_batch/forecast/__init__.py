"""How long a job will take and what it will cost, told before it runs: from a sample of its rows, and from a short
measured run or from arithmetic. Starts no Ray and writes nothing."""
