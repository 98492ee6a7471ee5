"""HTTP/1.x request heads (RFC 9112) for the request path: nothing here is called from Python."""
