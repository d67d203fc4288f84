"""A client's adjustments: how they are decided, how they share transactions, and the tables that hold them."""
