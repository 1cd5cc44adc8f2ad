"""The adapter to BTCPay Server, the merchant's own: invoices over its Greenfield API. The buyer
alone moves money, and nothing ends an invoice for good: coins may come to its address for ever.
"""
