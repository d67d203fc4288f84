"""Write a company's balances into the table: checked first, never half a row, and resumable."""
