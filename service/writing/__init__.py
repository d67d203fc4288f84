"""Messages of a source into a table. A role gives the rows, and says where a message goes that can be none."""
