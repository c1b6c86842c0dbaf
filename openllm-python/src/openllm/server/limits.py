"""What one connection and one request may cost beyond the settings of `openllm_core.limits`: numbers nobody need choose.

Read by the HTTP side alone.
"""

from __future__ import annotations

RATE_WINDOW_S = 10.0  # over which a body's rate is taken
MAX_FRAMING_BYTES = 1024 * 1024  # of a body sent in chunks: sizes, extensions and trailers
SHORT_BODY_BYTES = 64 * 1024  # of a refused request, read away so that its connection can go on
KEEP_ALIVE_SLACK_S = 1.0  # an idle connection is kept so much longer: clients that keep theirs as long meet no reset
LINGER_S = 2.0  # how long a refused body is read and thrown away, so that the refusal reaches its sender

MAX_WRITE_BUFFER_BYTES = 64 * 1024  # a connection that has more unsent than this counts as slow
SEND_BUFFER_BYTES = 64 * 1024  # of the kernel, per connection; it doubles the number
FIRST_DELTA_WAIT_S = 15.0  # a stream that fails within this time fails with a status, later with an error event

MAX_RETRY_AFTER_S = 60
MAX_ERROR_CHARS = 1000
MAX_IGNORED_HEADER_CHARS = 1000
