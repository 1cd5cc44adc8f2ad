"""SQL: the only place of order_rpc that reads and writes rows. Every function takes the open transaction; rows that belong to somebody are only
loaded with `visible_to=caller`.

Rows are locked in one order, so that no two transactions wait for each other: receipt or inbox row, order, payment_disposition, reservation,
stock (SKUs ascending). SetStock locks product before stock; nobody else locks a product.
"""
