"""`ringstead status`, `device`, `daemon`, `user`, `rebalance`, `fsck`: the store, its devices and its daemons."""
