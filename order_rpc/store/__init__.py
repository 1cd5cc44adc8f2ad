"""SQL: the only place of order_rpc that reads and writes rows. Every function takes the open
transaction; rows that have an owner are only loaded with `visible_to=caller`.

Rows are locked in one order, so that no two transactions wait for each other: idempotency record or
inbox row, order, payment_disposition, refund_request, reservation, allocation, product, stock (SKUs
ascending). Changing the stock by hand locks product before stock; orders lock no product.
"""
