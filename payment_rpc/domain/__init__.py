"""The rules of payments, independent of callers and storage. No I/O, no clock."""
