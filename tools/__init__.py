"""What developers run, and the private processes and servers of tests and measurements."""
