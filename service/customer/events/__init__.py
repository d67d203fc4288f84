"""Publish each balance as an event in the stream, without delaying the reply."""
