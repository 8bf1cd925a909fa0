"""The frozen part of the network, computed once for every example and view."""
