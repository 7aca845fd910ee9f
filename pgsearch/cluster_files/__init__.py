"""Files that start a Ray cluster for pgsearch, by how the cluster is to be had."""
