"""The adapter to PayPal: Orders v2 and Payments v2. The buyer approves an order on PayPal's page,
and our own call captures it, so an attempt is closed by not making that call.
"""
