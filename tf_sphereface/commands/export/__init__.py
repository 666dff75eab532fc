"""`tf_sphereface-export`."""
