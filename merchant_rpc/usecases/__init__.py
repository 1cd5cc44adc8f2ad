"""What merchant_rpc does: one method per RPC, each step of it a transaction or a pure decision."""
