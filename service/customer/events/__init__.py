"""Each balance as an event in the stream, sent and acknowledged behind the replies."""
