"""The life of servers and volumes: work as persisted state machines, and the reconciler that holds them to the pools."""
