"""The worker beside an instance: `python -m dreambooth_api.worker`.

It claims jobs from main-api over HTTP, drives its own instance over HTTP, and reports back. It holds a node
key and nothing else, opens no port, imports no torch, and keeps nothing that matters: whatever is killed, the
job's lease ends and another worker goes on.

    lanes      claims jobs of a kind while there is room for them, and reports how each ended
    held       keeps one job's lease, and knows when it has to be stopped
    training   one training, from its photos to its model
    generation one generation, from its request to its stored pictures
"""
