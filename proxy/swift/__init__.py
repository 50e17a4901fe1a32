"""The Swift dialect of the object model."""
