"""A whole cluster on a virtual clock, from one seed. README.md says what it does and what it found."""
