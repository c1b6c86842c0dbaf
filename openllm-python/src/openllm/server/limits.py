"""What one connection and one request may cost: every number the HTTP side refuses by.

Limits of a request's content (n, stop strings, prompts) are the service's, in `openllm.service.requests`.
"""

from __future__ import annotations

MAX_CONNECTIONS = 1024
MAX_HEADER_BYTES = 32 * 1024  # all headers of one request together
MAX_HEADERS = 100
MAX_REQUEST_LINE_BYTES = 8 * 1024
HEADER_TIMEOUT_S = 10.0  # from the first byte of a request to the end of its headers
BODY_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 5
LINGER_S = 2.0  # how long a refused body is read and thrown away, so that the refusal reaches its sender

MAX_JSON_DEPTH = 64

MAX_WRITE_BUFFER_BYTES = 64 * 1024  # a connection that has more unsent than this counts as slow
SEND_BUFFER_BYTES = 64 * 1024  # of the kernel, per connection; it doubles the number
STALL_S = 30.0  # a slow connection that takes nothing for so long is cut
FIRST_DELTA_WAIT_S = 15.0  # a stream that fails within this time fails with a status, later with an error event

MAX_RETRY_AFTER_S = 60
MAX_ERROR_CHARS = 1000
MAX_IGNORED_HEADER_CHARS = 1000
