"""What runs beside the requests: forwarding, chains, webhooks, deletions, retention and the sweep.

Messages on the broker only name a record. Each is handled by looking at that record and doing what it needs,
under a claim or a compare-and-set, so that a message which is lost, late or doubled harms nothing.
"""
