"""The shared runtime: what every service needs and no service owns. One line per module.

Pure: no input or output, no clock
    errors          the refusals, without RPC or HTTP
    money           integers inside, exact decimal text outside
    clock           time as a constructor argument
    times           moments as milliseconds, RFC 3339 and Timestamp
    ids             identifiers that sort by time
    state_machine   states and steps, each declared once
    backoff         pauses that double up to a limit
    rate_limit      so many at once, then one per interval, for each key
    languages       which language a caller prefers
    problem_texts   what is wrong with a field, in that language
    free_text       what people may write in their own words
    customers       merchants' own orders: whose they are, by whom they are found

Storage
    db              databases, transactions that run whole or not at all
    migrations      schemas of the services
    schema_versions whether code runs on the schema of its database
    migration_steps steps that all histories share
    idempotency     one key, one effect, the first final answer
    outbox          messages written in the transaction of a change
    relay           delivers them until they are answered
    inbox           which events a consumer has applied
    events          events on Redis Streams
    purge           deletes what was delivered
    log_chain       logs that are evidence, chained by hashes
    audit           what `paymesh audit` and `explain` read of every service
    progress        how far a long read is
    pacing          long work in a thread rests
    bad_rows        a row that cannot be read or taken stops no other
    batch_size      how many rows fit into one unit of work
    redis_client    Redis with deadlines and connections that can be trusted

Serving
    server          one port, every method behind the pipeline
    pipeline        the chain around every served call
    requests        bytes to a request that keeps the rules
    refusals        exceptions to statuses
    wire_errors     refusals on the wire and back
    call            the call that is being served
    scopes          what keys and members of merchants may be allowed to do
    policies        what the contract declares of each method
    fingerprints    the meaning of a request for its idempotency key
    access          who may do what
    limits          rate limits of methods
    bounds          how large a request may be
    load            room for each kind of call
    validation      the rules beside the fields
    deadlines       ends calls whose time is over
    streams         the streams that are open
    paging          page tokens
    batching        callers share one transaction or one call
    health          grpc.health.v1
    reflection      grpc.reflection
    http_server     uvicorn without its signal handlers

Identity
    auth            user tokens to callers
    caller_tokens   services name themselves
    claims          what tokens say
    signed_tokens   signatures of both kinds
    jwks            keys of an identity provider
    token_issuers   our own issuers of user tokens, what each may claim, and how it signs
    key_files       Ed25519 keys of processes and issuers
    revocations     tokens that are no longer believed
    token_cache     verified tokens for a moment
    api_key_format  the form of API keys, and what is stored of them
    extra_callers   callers that an operator admits
    clock_skew      whose clock is wrong

Calling
    client          a channel that generated stubs accept
    attempts        on which replica, and when on another one
    retries         which failed calls may be repeated
    replicas        the replicas of a service, the least busy first
    connections     connections to one endpoint
    connector       opens them with our certificates
    transport       TLS and options of channels and ports
    discovery       where replicas are: static, Consul
    outbound        HTTP to peers outside the mesh
    last_good       the last good answers of a neighbour
    merchant_status  whether a merchant may sell
    merchant_directory  what merchant_rpc says of merchants

Running
    process         the life of a process
    settings        what the environment says, checked at once
    secret_files    secrets and TLS files that settings name
    variables       misspelt variables
    files           files written whole, read again when they change
    certificate_files   certificates that are read again
    worker          background work in one loop
    traffic         whether this process is in use
    dependencies    whether what it needs can be used
    database_clock  the database's clock
    failpoints      named points where tests crash a process
    logs            one JSON object per line, no secrets
    metrics         series of calls, and their port
    trace           W3C trace context
"""
