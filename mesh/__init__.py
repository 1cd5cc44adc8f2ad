"""The shared runtime: what every service needs and no service owns."""
