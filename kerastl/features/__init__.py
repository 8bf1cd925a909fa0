"""The frozen part of the network, computed once for every image and view."""
