"""The HTTP face: S3 and Swift over one object model; quorums."""
