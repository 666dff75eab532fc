"""`tf_sphereface-data`."""
