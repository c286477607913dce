"""What a change of leases does to rows that are stored already: which ones (``changes``), and how (``rewrite``)."""
