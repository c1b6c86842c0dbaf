"""Load tests of OpenAI-shaped endpoints: `openllm bench` and the measuring tools of this repository stand on it.

`exchange` speaks HTTP, `answers` reads what came, `endpoint` finds out what a server understands, `load` paces requests,
`results` makes figures of them; `subjects` starts servers, `rounds` measures them in turns, `compare` sets two runs side
by side. It knows nothing of engines: our own server is just another address.
"""
