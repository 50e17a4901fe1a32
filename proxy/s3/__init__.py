"""The S3 dialect of the object model."""
