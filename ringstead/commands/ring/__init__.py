"""`ringstead ring`, also installed as `ringstead-ring`: the builder's files, made and changed."""
