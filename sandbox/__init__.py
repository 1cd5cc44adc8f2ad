"""The simulated outside world: a payment channel as a separate program, which shares nothing with paymesh but its published HTTP API."""
