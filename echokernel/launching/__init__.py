"""What `provisioner` is made of: the choice of a way, the plan, the attempt, the launch's story."""
