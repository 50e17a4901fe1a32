"""Rows put into a Swift container's databases by Swift's own broker; run by a Python that has Swift, and nothing of ours.

swift_rows.py ETC NODES ACCOUNT CONTAINER COUNT
"""

import glob
import os
import sys

from swift.common.utils import Timestamp, hash_path, set_swift_dir, validate_configuration
from swift.container.backend import ContainerBroker

BATCH = 10_000
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"


def main():
    """Merge the rows into each replica."""
    etc, nodes, account, container = sys.argv[1:5]
    count = int(sys.argv[5])
    set_swift_dir(etc)
    validate_configuration()
    name_hash = hash_path(account, container)
    found = glob.glob(os.path.join(nodes, "*", "*", "containers", "*", "*", name_hash, f"{name_hash}.db"))
    if not found:
        sys.exit(f"no replica of {account}/{container}")
    stamp = Timestamp.now().internal
    for path in found:
        broker = ContainerBroker(path, account=account, container=container)
        for first in range(0, count, BATCH):
            broker.merge_items(
                [
                    {
                        "name": f"n{number:08d}",
                        "created_at": stamp,
                        "size": 0,
                        "content_type": "application/octet-stream",
                        "etag": EMPTY,
                        "deleted": 0,
                        "storage_policy_index": 0,
                        "ctype_timestamp": stamp,
                        "meta_timestamp": stamp,
                    }
                    for number in range(first, min(first + BATCH, count))
                ]
            )


main()
