"""What is true of payments, whoever calls and wherever it is stored. No I/O, no clock."""
