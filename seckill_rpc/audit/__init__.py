"""What must hold within seckill_rpc, for `paymesh audit`, and what it knows about an order, for
`paymesh explain`. Reads only.
"""

from mesh.audit import ServiceAudit
from seckill_rpc.audit.checks import violations
from seckill_rpc.audit.explain import explain_order, explain_others, find_orders
from seckill_rpc.tables import APPEND_ONLY, metadata

AUDIT = ServiceAudit(
    metadata=metadata,
    evidence=APPEND_ONLY,
    violations=violations,
    find_orders=find_orders,
    explain_order=explain_order,
    explain_others=explain_others,
)
