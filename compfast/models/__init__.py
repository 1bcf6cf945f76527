"""The single member, twice: a readable `nn.Module` (the oracle) and a plan (the fast engines)."""
