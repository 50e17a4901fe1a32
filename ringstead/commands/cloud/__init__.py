"""`ringstead server`, `volume`, `image`, `flavor`, `pool`, `host`, `az`, `quota`, `task`, `zone`: through the controller."""
