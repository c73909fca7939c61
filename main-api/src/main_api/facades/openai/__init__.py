"""OpenAI's images API, as far as it goes here: `/v1/images/generations` and `/v1/images/edits`."""
