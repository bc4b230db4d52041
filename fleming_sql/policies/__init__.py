"""Pure decisions: values in, decision out. No database, no network, no clock."""
