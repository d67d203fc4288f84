"""Users' JWTs, their scopes and their .creds files."""
