"""The tests, one file a module, in folders like the packages."""
