"""What the scheduler remembers: servers, volumes, images, flavors, pools, and the work on them, in SQL."""
