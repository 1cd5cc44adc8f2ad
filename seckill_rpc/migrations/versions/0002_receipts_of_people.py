"""Receipts belong to people whatever role admitted them; room and indexes of the outbox and the
inbox.
"""

from mesh.migration_steps import downgrade_to_first_version as downgrade
from mesh.migration_steps import upgrade_to_second_version as upgrade

__all__ = ["downgrade", "upgrade"]

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
