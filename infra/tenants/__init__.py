"""Tenants as users of the store: made, listed, given new passwords, taken away."""
