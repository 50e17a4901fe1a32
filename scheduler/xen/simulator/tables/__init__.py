"""The part of the XenAPI datamodel that the simulator serves, as data; a test holds it to the real one."""
