"""The HTTP API: OpenAI's routes, and our own for quotes, over one engine (`generation/engine.py`).

A request, walked: `guard` (key, host, size) -> `app` (the route) -> `schema` (its fields) -> `models` (which model) ->
`prompts` (token ids that fit) -> `worker` (the thread that owns the model) -> `choices` (text, piece by piece) ->
`events` (server-sent events) or one JSON object."""
