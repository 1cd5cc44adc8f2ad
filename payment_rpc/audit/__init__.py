"""What must hold within payment_rpc, for `paymesh audit`, and what it knows about an order, for
`paymesh explain`. Reads only; `channel` also asks the channel.
"""

from mesh.audit import ServiceAudit
from payment_rpc.audit.checks import violations
from payment_rpc.audit.explain import explain_order, find_orders
from payment_rpc.tables import APPEND_ONLY, metadata

AUDIT = ServiceAudit(
    metadata=metadata,
    evidence=APPEND_ONLY,
    violations=violations,
    find_orders=find_orders,
    explain_order=explain_order,
)
