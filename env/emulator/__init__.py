"""The engine kernel behind an OpenAI-compatible server, in real time."""
