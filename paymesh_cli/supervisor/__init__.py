"""Runs the mesh on one machine: manages the files below var/, plans the processes, and keeps them
running.

    installation   secrets, keys, the lock and the addresses of the running mesh, below var/
    plan           settings -> the processes to start, each a command, an environment and a
                   health check; no I/O but free ports
    ports          finds free ports
    providers      addresses and process of the simulated payment providers
    redis_server   finds and configures a Redis server
    health         probes whether a process answers
    processes      starts, watches, restarts and stops the planned processes
    log_files      shows the log files of the processes
    parent_death   makes a process die with its parent
"""
