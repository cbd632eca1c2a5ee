"""HTTP without a framework: what both adapters say on the wire, and what it means."""
