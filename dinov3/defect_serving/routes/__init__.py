"""What the server answers, a module for each kind of address; each makes a router of a :class:`Service`."""
