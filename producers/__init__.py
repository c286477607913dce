"""Everything that makes events: the node agent, usage and leases, the fleet simulator."""
