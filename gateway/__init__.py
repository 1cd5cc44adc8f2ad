"""The only entrance from outside: HTTP and JSON in front, gRPC behind. Routes, access, limits and
documentation come from the descriptors alone.
"""
