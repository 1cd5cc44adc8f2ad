"""The only entrance from outside: HTTP and JSON in front, gRPC behind. Routes, access, limits and
documentation come from the descriptors alone.

A request passes these modules, in this order:

| module | what it does |
|---|---|
| `acceptor`, `server` | accept connections, at most GATEWAY_CONNECTIONS_MAX; TLS |
| `protocol`, `request_head` | HTTP/1.1 of one connection; its limits are in `connection_limits` |
| `app`, `routes` | find the handler of a path; headers of all responses, `cors` |
| `handlers`, `streams` | one RPC: authenticate, `limits`, read the body, call, respond; SSE |
| `api_keys`, `merchant_keys` | an API key becomes a token; the key goes no further |
| `request`, `binding` | headers and body; path, query and JSON become the request message |
| `codec` | protobuf JSON: field aliases, numbers, exact amounts |
| `responses`, `errors` | the envelope of a success, and of a refusal |
| `schema` | what the descriptors say: methods, HTTP rules, policies, errors |
| `openapi`, `docs`, `static`, `builtin_routes` | `/openapi.json`, `/docs`, `/healthz`, `/readyz` |
| `telemetry` | metrics and the access log |
"""
