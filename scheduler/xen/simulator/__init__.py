"""A XenAPI server without Xen: pools, hosts, VMs and disks as a model in memory, served to clients that cannot tell.

Problem: the driver, the life of servers on top of it and `ringstead up` need pools. Real ones are machines; a mock
agrees with whatever its author believes, and so finds nothing.

Idea: a server of its own that speaks the pools' two dialects over HTTP, so that clients which others wrote (the XenAPI
binding, the connector of Xen Orchestra) hold it to account. Three layers, each knowing only those above it in this list:

- `schema`, `database`, `events`: classes and fields as the datamodel has them, rows, relations, what changed since when.
- `pool`, `jobs`, `allowed`, `memory` and the messages in `calls/`: what a pool does. Pure and synchronous: the clock, the
  randomness and the disks arrive as arguments. What takes time is a generator that yields how long, and `Jobs` resumes it
  when that has passed: tests advance a clock of their own, the server sleeps.
- `wire`, `http`, `transfer`, `control`, `server`: bytes in, bytes out, on trio.

Rejected: threads with sleeps in them (no order, no cancel, no test without waiting); a database schema generated from the
whole datamodel at start (72 classes, of which twenty are of use here).

Invariants, held by tests: hosts never promise more memory than they have, nor thick SRs more bytes; what
`allowed_operations` lists is what is accepted; a cancelled or failed operation leaves nothing behind; all that is served
agrees with the datamodel.
"""
