"""The one-machine cluster that `ringstead up` makes: its folder, its growth, its start."""
