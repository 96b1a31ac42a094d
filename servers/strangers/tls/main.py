"""TLS, without a certificate: no handshake gets that far here."""

import socket
import ssl
import sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    connection.settimeout(2)
    try:
        context.wrap_socket(connection, server_side=True).close()
    except OSError:
        connection.close()
