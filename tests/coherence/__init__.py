"""What the cache serves beside writers, transactions, faults and releases."""
