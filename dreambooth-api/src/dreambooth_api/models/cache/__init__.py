"""Models from the object store on a shared volume: one folder for all services of a machine.

    <root>/entries/<tenant>/<model id>/<version>/   a model, whole since it was renamed to here
                      .lock                 shared by all who have it open; whoever evicts has it alone
                      .entry.json           how its files looked when they were last hashed
                      .pinned, .doomed      marks: never evict; deleted, goes with its last reader
    <root>/incoming/<random>/               being fetched; .lock is held, .reserved has its bytes
    <root>/trash/<random>/                  being removed
    <root>/damaged/<time>-<random>/         did not match its manifest; kept to be looked at, first to go
    <root>/locks/space                      held while room is made and names change
    <root>/locks/<hash of a key>            held by who fetches it; has the last failure

The folder is the only record: what is used, and when, is read off it, so that nothing can disagree with
it after a crash. Where every flock succeeds (some network file systems), models may be fetched twice and
the bound be passed for a while, but each download has its own name until it is whole and is renamed.
"""
