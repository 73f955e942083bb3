"""What the processes of one run do together: sums, waiting for each other, stopping."""
