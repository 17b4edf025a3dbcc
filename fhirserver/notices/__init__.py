"""Notices: what one side of the exchange did, told to the other, as a Communication on the registry and by e-mail."""
