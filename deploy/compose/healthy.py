"""Health check of a container: ends with 0 when the process answers 200. Standard library only and
nearly nothing of it: this runs every ten seconds.

    python -I -S healthy.py 127.0.0.1:8080/readyz     the gateway; 127.0.0.1:9464/readyz is a gRPC service, on its port for metrics
"""

import socket
import sys

SECONDS_MAX = 4.0


def ask(target: str) -> str:
    """The status line of GET http://`target`. Raises OSError."""
    address, _, path = target.partition("/")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as connection:
        connection.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n" not in answer and len(answer) < 4096:
            chunk = connection.recv(4096)
            if not chunk:
                break
            answer += chunk
    return answer.split(b"\r\n", 1)[0].decode("latin-1")


def main() -> int:
    """0 when it is healthy; else says what was heard."""
    try:
        status = ask(sys.argv[1])
    except OSError as problem:
        status = str(problem)
    if status.split(" ")[1:2] == ["200"]:
        return 0
    sys.stdout.write(f"{status or 'no answer'}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
