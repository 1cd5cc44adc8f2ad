"""Products, their stock and the orders of buyers, in one database. Speaks `paymesh.order.v1`."""
