"""What must hold within merchant_rpc, for `paymesh audit`, and what it knows about a merchant, for
`paymesh explain`. Reads only.
"""

from merchant_rpc.audit.checks import violations
from merchant_rpc.audit.explain import explain_merchants, explain_order, find_orders
from merchant_rpc.tables import APPEND_ONLY, metadata
from mesh.audit import ServiceAudit

AUDIT = ServiceAudit(
    metadata=metadata,
    evidence=APPEND_ONLY,
    violations=violations,
    find_orders=find_orders,
    explain_order=explain_order,
    explain_others=explain_merchants,
)
