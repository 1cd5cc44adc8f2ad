"""The mesh on one machine: what an installation keeps below var/, which processes run it, and the
loop that keeps them running.

    installation   secrets and keys below var/, one `up` at a time, where the running mesh is
    plan           settings -> the processes to start, each a command, an environment and a
                   health check; no I/O but free ports
    ports          which ports are free
    redis_server   which Redis server this machine has
    health         whether a process answers
    processes      starts, watches, restarts and stops the planned processes
    log_files      what the processes wrote, for people
    parent_death   makes a process die with the one that started it
"""
