"""Places Xen VMs and volumes on the ring's topology."""
