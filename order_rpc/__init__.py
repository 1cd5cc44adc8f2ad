"""Products, their stock and the orders of buyers, in one database. Speaks `paymesh.order.v1`.

Where each RPC is implemented, below `usecases/`:

    orders.py          CreateOrder, GetOrder, ListOrders
    cancellations.py   CancelOrder; the worker that expires unpaid orders
    payments.py        PayOrder, UpdateOrderStatus
    refunds.py         RefundOrder, ApproveRefund, RejectRefund, ListOrderRefunds
    shipments.py       SetShippingAddress, ShipOrder, CompleteOrder, GetOrderTimeline
    catalog.py         CreateProduct, UpdateProduct, ListProducts, GetProduct, GetStock
    catalog_stock.py   SetStock, AdjustStock, ListStockMovements
    allocations.py     AllocateStock, ReturnAllocation, CreateSeckillOrders
    statistics.py      ListOrderStatistics, GetDailySummary

They share `apply_payment.py` and `apply_refunds.py` (what a snapshot of a payment does to orders),
`journal.py` (a step with its history, events and statistics), `events.py` (ORDER_TOPIC), and
`outbox_to_payment.py` and `outbox_to_seckill.py` (messages to the other services; the answer to
ClosePayment, which ends a cancellation, is settled in the first).
"""
