"""Write a company's balances into the table: checked first, each row atomically, and resumable."""
