"""Users' JWTs, scopes and .creds files."""
