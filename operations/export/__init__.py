"""Write the balances of a table, or of DynamoDB's own export of it, as `operations.load` reads them."""
