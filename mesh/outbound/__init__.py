"""Calls over HTTP/1.1 to peers outside the mesh, such as payment channels: the only such client."""
